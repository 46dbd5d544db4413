// Join room
socket.emit('room:join', { roomId, roomType });

// Send to room
socket.emit('message:send', { roomId, message });

// Leave room
socket.emit('room:leave', { roomId });
