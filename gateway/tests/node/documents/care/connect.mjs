import { io } from 'socket.io-client';

const socket = io('http://localhost:8080', {
  auth: { token: 'your-jwt-token' },
  transports: ['websocket', 'polling']
});

socket.on('connected', (data) => {
  console.log('Connected:', data.socketId);
});
