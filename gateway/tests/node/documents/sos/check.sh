curl -X GET http://bff-citizen:3000/api/sos/507f1f77bcf86cd799439011/participants/507f1f77bcf86cd799439012/check \
  -H "Authorization: Bearer eyJhbGc..."
