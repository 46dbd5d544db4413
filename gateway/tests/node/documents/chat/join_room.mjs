socket.emit('join_room', 'asteroid-2465633');

socket.on('room_history', ({ roomId, messages }) => {
  console.log(`Room ${roomId}: ${messages.length} messages`);
  messages.forEach(msg => {
    console.log(`${msg.user.name}: ${msg.content}`);
  });
});
