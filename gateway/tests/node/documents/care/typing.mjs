// Start typing
socket.emit('typing:start', { roomId: 'chat:user1:user2' });

// Stop typing
socket.emit('typing:stop', { roomId: 'chat:user1:user2' });

// Listen for typing
socket.on('typing:start', (data) => {
  console.log(`${data.userId} is typing...`);
});
