// Listen for notifications
socket.on('notification:new', (data) => {
  console.log('Notification:', data.title, data.message);
});

// Mark as read
socket.emit('notification:read', {
  notificationId: 'notif-123'
});

// Get unread count
socket.emit('notification:getUnreadCount', (response) => {
  console.log('Unread:', response.unreadCount);
});
