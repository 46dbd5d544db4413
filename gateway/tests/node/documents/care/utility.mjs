// Check if connected
console.log('Connected:', socket.connected);

// Get socket ID
console.log('Socket ID:', socket.id);

// Disconnect
socket.close();

// Reconnect
socket.connect();

// Error handling
socket.on('connect_error', (error) => {
  console.error('Connection error:', error.message);
});

socket.on('error', (error) => {
  console.error('Socket error:', error);
});
