socket.emit('leave_room', 'asteroid-2465633');
