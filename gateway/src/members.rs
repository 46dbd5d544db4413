//! A room's members as clients and backends receive them.

use fanout::Member;
use schemars::JsonSchema;
use serde::Serialize;
use shared::limits::MEMBERS_MAX;

use crate::describe::forms::{Millis, UserIdText};

/// An entry of a member list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Member")]
pub(crate) struct Listed<'a> {
    #[schemars(with = "UserIdText")]
    user_id: &'a str,
    display_name: &'a str,
    socket_id: &'a str,
    #[schemars(with = "Millis")]
    connected_at: u64,
}

/// The first [`MEMBERS_MAX`] members. The count beside the list covers all members.
pub(crate) fn listed(members: &[Member]) -> Vec<Listed<'_>> {
    let listed = members.iter().take(MEMBERS_MAX).map(|member| Listed {
        user_id: member.user.as_str(),
        display_name: &member.display_name,
        socket_id: member.socket.as_str(),
        connected_at: member.connected_at_ms,
    });
    listed.collect()
}

#[cfg(test)]
mod tests {
    use fanout::RoomCount;
    use shared::ids::{NodeId, SocketId};
    use shared::names::UserId;

    use super::*;

    #[test]
    fn a_list_is_bounded_and_its_count_is_not() {
        let node = NodeId::from_random([0; 4]);
        let member = |_| Member {
            socket: SocketId::new(node, [0; 16]),
            user: UserId::parse("u1").unwrap(),
            display_name: "U".into(),
            node,
            connected_at_ms: 7,
            role: None,
        };
        let members: Vec<_> = (0..=MEMBERS_MAX).map(member).collect();
        assert_eq!(listed(&members).len(), MEMBERS_MAX);
        assert_eq!(RoomCount::of(&members).sockets, MEMBERS_MAX + 1);
        assert_eq!(listed(&members[..2]).len(), 2);
        let shown = serde_json::to_value(&listed(&members[..1])[0]).unwrap();
        let socket = members[0].socket.as_str();
        let expected = serde_json::json!(
            {"userId": "u1", "displayName": "U", "socketId": socket, "connectedAt": 7}
        );
        assert_eq!(shown, expected);
    }
}
