//! The guarantees of the handle for every backplane: each behaviour runs on a single node, and on two nodes with a real
//! Redis.
//!
//! A behaviour is a function of a [`World`]. It names nodes by numbers; in the world of a single node, all numbers name
//! that node. Another backplane is another world.
//! node. Another backplane is another world.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod broadcasts;
mod faults;
mod holdback;
mod interleavings;
mod live;
mod membership;
mod once;
mod requests;
mod server;
mod world;

use world::World;

macro_rules! conformance {
    ($($topic:ident: $($behaviour:ident),+;)+) => {
        mod alone {
            $(mod $topic {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    crate::$topic::$behaviour(crate::World::alone()).await;
                })+
            })+
        }
        mod cluster {
            $(mod $topic {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    crate::$topic::$behaviour(crate::World::cluster().await).await;
                })+
            })+
        }
    };
}

conformance! {
    broadcasts:
        all_members_receive_all_broadcasts_in_one_order,
        a_member_receives_what_is_sent_while_it_is_in_the_room,
        a_broadcast_goes_to_those_it_is_for,
        a_watcher_receives_and_is_no_member,
        a_sequenced_broadcast_is_given_to_every_owner,
        a_broadcast_that_waited_does_not_reach_members_of_a_later_room,
        nothing_overtakes_a_sequenced_broadcast_on_the_way_to_its_owner;
    interleavings:
        operations_of_one_source_take_effect_in_order,
        a_leaving_user_receives_their_own_earlier_posts;
    membership:
        the_first_and_the_last_socket_of_a_user_are_distinguished,
        an_order_to_leave_waits_for_sockets_that_are_being_placed,
        lists_and_counts_agree,
        sockets_and_rooms_are_limited,
        detaching_leaves_every_room,
        namespaces_are_apart;
    holdback:
        a_user_who_does_not_return_is_gone_once,
        a_user_who_returns_in_time_was_never_gone,
        a_user_who_leaves_is_not_reported;
    live:
        a_value_is_changed_by_one_at_a_time,
        a_value_expires,
        a_timer_is_due_again_until_it_is_cancelled,
        the_nearest_places_are_found_first,
        work_under_a_lock_is_done_by_one_at_a_time,
        work_that_fails_or_hangs_does_not_keep_the_lock;
    once:
        a_broadcast_under_a_key_is_made_once,
        a_key_stands_for_what_it_was_first_used_for;
    requests:
        clients_are_asked_and_answer,
        nobody_answers_for_an_empty_room,
        sockets_of_a_user_enter_and_leave_a_room,
        those_enter_that_the_app_admits,
        those_leave_that_the_app_admits_no_more,
        a_user_is_disconnected_where_they_are_in_a_room,
        receivers_are_counted;
}
