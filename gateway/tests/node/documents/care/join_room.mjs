socket.emit('room:join', {
  roomId: 'chat:user1:user2',
  roomType: 'chat',
  metadata: { visitId: 'visit-123' }
}, (response) => {
  console.log('Joined room:', response.roomId);
  console.log('Participants:', response.participants);
});
