import { io } from 'socket.io-client';

// Or via headers
const socket = io('http://localhost:4000', {
  extraHeaders: {
    authorization: 'Bearer <JWT_ACCESS_TOKEN>'
  }
});
