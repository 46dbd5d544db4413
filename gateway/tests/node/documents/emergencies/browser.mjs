import io from 'socket.io-client';

// Connect to emergency namespace
const socket = io('http://localhost:5000/emergencies', {
  auth: {
    token: 'your-jwt-access-token'
  },
  transports: ['websocket', 'polling']
});

// Connection events
socket.on('connect', () => {
  console.log('Connected to emergency namespace');
});

socket.on('connect_error', (error) => {
  console.error('Connection error:', error.message);
});

// Emergency events
socket.on('emergency:created', (data) => {
  console.log('New emergency:', data.emergency);
  // Show notification to helper
});

socket.on('emergency:nearby', (data) => {
  console.log('Emergency nearby:', data.emergency);
  // Show in helper's nearby emergencies list
});

// Join emergency room
socket.emit('emergency:join', {
  emergencyId: '507f1f77bcf86cd799439011'
});

socket.on('emergency:joined', (data) => {
  console.log('Joined room:', data.room);
});

// Listen for helper updates
socket.on('helper:joined', (data) => {
  console.log('Helper joined:', data.helper);
});

socket.on('helper:status_update', (data) => {
  console.log('Helper status:', data.status);
});

socket.on('emergency:status_changed', (data) => {
  console.log('Status changed:', data.status);
});

socket.on('emergency:resolved', (data) => {
  console.log('Emergency resolved:', data);
});

// Update location
socket.emit('location:update', {
  latitude: 40.7128,
  longitude: -74.0060
});

socket.on('location:updated', (data) => {
  console.log('Location updated:', data);
});

// Error handling
socket.on('error', (error) => {
  console.error('Socket error:', error.message);
});

// Disconnect
socket.on('disconnect', (reason) => {
  console.log('Disconnected:', reason);
});
