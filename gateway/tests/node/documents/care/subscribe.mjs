// Subscribe
socket.emit('presence:subscribe', {
  userIds: ['user-1', 'user-2']
});

// Listen for updates
socket.on('presence:changed', (data) => {
  // Update UI
});
