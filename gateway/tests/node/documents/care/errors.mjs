// Connection errors
socket.on('connect_error', (error) => {
  if (error.message === 'Authentication error: Invalid token') {
    // Refresh token or redirect to login
  } else if (error.message === 'Authentication error: Token expired') {
    // Refresh token
  }
});

// Event errors (via callback)
socket.emit('message:send', data, (response) => {
  if (!response.success) {
    console.error('Error:', response.error);
    // Handle specific error
  }
});
