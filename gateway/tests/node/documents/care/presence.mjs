// Get user presence
socket.emit('presence:get', {
  userIds: ['user-1', 'user-2']
}, (response) => {
  response.presences.forEach(p => {
    console.log(`${p.userId}: ${p.status}`);
  });
});

// Set status
socket.emit('presence:setStatus', {
  status: 'busy',
  customStatus: 'In a meeting'
});

// Listen for presence changes
socket.on('presence:changed', (data) => {
  console.log(`${data.userId} is now ${data.status}`);
});
