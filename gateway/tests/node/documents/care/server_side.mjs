import { emitToUser, emitToRoom, broadcast } from './lib/websocket.js';

// Send to specific user
emitToUser('user-123', 'notification:new', {
  title: 'New Message',
  message: 'You have a new message'
});

// Send to room
emitToRoom('chat:user1:user2', 'message:new', {
  id: 'msg-123',
  senderId: 'user-1',
  message: 'Hello!'
});

// Broadcast to all
broadcast('system:maintenance', {
  message: 'Scheduled maintenance in 10 minutes'
});
