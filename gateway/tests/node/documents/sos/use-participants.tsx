import { useState, useEffect } from 'react';

const useParticipants = (sosId: string, token: string) => {
  const [participants, setParticipants] = useState([]);
  const [loading, setLoading] = useState(false);
  const [error, setError] = useState<string | null>(null);

  // Fetch active participants
  const fetchActive = async () => {
    setLoading(true);
    try {
      const response = await fetch(
        `http://bff-citizen:3000/api/sos/${sosId}/participants/active`,
        {
          headers: {
            'Authorization': `Bearer ${token}`,
          },
        }
      );
      const data = await response.json();
      if (data.success) {
        setParticipants(data.data);
      } else {
        setError(data.error);
      }
    } catch (err) {
      setError(err instanceof Error ? err.message : 'Error fetching participants');
    } finally {
      setLoading(false);
    }
  };

  // Join as participant
  const join = async (userType?: string) => {
    try {
      const response = await fetch(
        `http://bff-citizen:3000/api/sos/${sosId}/participants/join`,
        {
          method: 'POST',
          headers: {
            'Authorization': `Bearer ${token}`,
            'Content-Type': 'application/json',
          },
          body: JSON.stringify({ userType }),
        }
      );
      const data = await response.json();
      if (data.success) {
        await fetchActive();
        return data.data;
      } else {
        setError(data.error);
      }
    } catch (err) {
      setError(err instanceof Error ? err.message : 'Error joining SOS');
    }
  };

  // Leave SOS
  const leave = async (userId: string) => {
    try {
      const response = await fetch(
        `http://bff-citizen:3000/api/sos/${sosId}/participants/${userId}/leave`,
        {
          method: 'PATCH',
          headers: {
            'Authorization': `Bearer ${token}`,
            'Content-Type': 'application/json',
          },
        }
      );
      const data = await response.json();
      if (data.success) {
        await fetchActive();
      } else {
        setError(data.error);
      }
    } catch (err) {
      setError(err instanceof Error ? err.message : 'Error leaving SOS');
    }
  };

  // Check if user is participating
  const checkParticipation = async (userId: string) => {
    try {
      const response = await fetch(
        `http://bff-citizen:3000/api/sos/${sosId}/participants/${userId}/check`,
        {
          headers: {
            'Authorization': `Bearer ${token}`,
          },
        }
      );
      const data = await response.json();
      if (data.success) {
        return data.data.isActive;
      }
      return false;
    } catch (err) {
      return false;
    }
  };

  useEffect(() => {
    fetchActive();
  }, [sosId]);

  return { 
    participants, 
    loading, 
    error, 
    join, 
    leave, 
    checkParticipation,
    fetchActive 
  };
};

// Usage in component
function ParticipantsList({ sosId, token, currentUserId }) {
  const { participants, join, leave, checkParticipation } = useParticipants(sosId, token);
  const [isParticipating, setIsParticipating] = useState(false);

  useEffect(() => {
    checkParticipation(currentUserId).then(setIsParticipating);
  }, [currentUserId]);

  return (
    <div>
      <h3>Active Participants ({participants.length})</h3>
      {!isParticipating ? (
        <button onClick={() => join()}>Join as Responder</button>
      ) : (
        <button onClick={() => leave(currentUserId)}>Leave</button>
      )}
      <ul>
        {participants.map((p) => (
          <li key={p.id}>
            {p.userType} - {p.userId}
            {p.status === 'ACTIVE' && <span className="badge">Active</span>}
          </li>
        ))}
      </ul>
    </div>
  );
}
