//! Values, timers and places that nodes share.

use std::future::{pending, ready};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fanout::{FanoutError, Place};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::world::{World, until};

const LONG: Duration = Duration::from_secs(60);

/// Longer than a busy machine takes between two lines.
const SHORT: Duration = Duration::from_secs(1);

pub(crate) async fn a_value_is_changed_by_one_at_a_time(world: World) {
    let add = async |node: usize| {
        let live = world.node(node).fanout.live();
        for _ in 0..20 {
            let next = |old: Option<&str>| {
                Some((old.and_then(|old| old.parse::<u32>().ok()).unwrap_or_default() + 1).to_string())
            };
            // Tries again where other nodes were faster too often.
            while live.update("k", LONG, next).await.is_err() {}
        }
    };
    tokio::join!(add(0), add(1), add(0), add(1));
    for node in world.nodes() {
        let keys = ["k".to_owned(), "none".to_owned()];
        assert_eq!(node.fanout.live().get(&keys).await, Ok(vec![Some("80".to_owned()), None]));
        assert_eq!(node.fanout.live().get(&[]).await, Ok(Vec::new()));
    }
    let live = world.node(0).fanout.live();
    let (before, after) = live.update("k", LONG, |_| None).await.unwrap();
    assert_eq!((before.as_deref(), after), (Some("80"), None));
    assert_eq!(live.get(&["k".to_owned()]).await, Ok(vec![None]));
}

pub(crate) async fn a_value_expires(world: World) {
    let live = world.node(0).fanout.live();
    live.update("k", SHORT, |_| Some("v".into())).await.unwrap();
    until(async || world.node(1).fanout.live().get(&["k".to_owned()]).await == Ok(vec![None])).await;
}

pub(crate) async fn a_timer_is_due_again_until_it_is_cancelled(world: World) {
    let (here, there) = (world.node(0).fanout.live(), world.node(1).fanout.live());
    here.schedule("t", "late", LONG).await.unwrap();
    here.schedule("t", "soon", SHORT).await.unwrap();
    here.schedule("other", "soon", LONG).await.unwrap();
    assert_eq!(there.due("t", 9, SHORT).await, Ok(Vec::new()));
    for _ in 0..2 {
        until(async || there.due("t", 9, SHORT).await == Ok(vec!["soon".to_owned()])).await;
        assert_eq!(here.due("t", 9, SHORT).await, Ok(Vec::new()), "it was taken");
    }
    here.cancel("t", "soon").await.unwrap();
    here.schedule("t", "later", SHORT).await.unwrap();
    until(async || there.due("t", 9, LONG).await == Ok(vec!["later".to_owned()])).await;
    // A timer of the same id is replaced.
    here.schedule("t", "late", Duration::ZERO).await.unwrap();
    until(async || there.due("t", 9, LONG).await == Ok(vec!["late".to_owned()])).await;
}

pub(crate) async fn the_nearest_places_are_found_first(world: World) {
    let place = |latitude, longitude| Place { latitude, longitude };
    let centre = place(48.0, 11.0);
    for (node, id, north) in [(0, "far", 0.5), (1, "near", 0.001), (0, "middle", 0.01), (1, "here", 0.0)] {
        let live = world.node(node).fanout.live();
        live.put("m", id, place(48.0 + north, 11.0), LONG).await.unwrap();
    }
    let near = async |radius, limit| {
        let found = world.node(1).fanout.live().near("m", centre, radius, limit).await.unwrap();
        found.into_iter().map(|near| near.id).collect::<Vec<_>>()
    };
    assert_eq!(near(5_000.0, 9).await, ["here", "near", "middle"]);
    assert_eq!(near(5_000.0, 2).await, ["here", "near"]);
    assert_eq!(near(200_000.0, 9).await, ["here", "near", "middle", "far"]);
    let found = world.node(0).fanout.live().near("m", centre, 5_000.0, 9).await.unwrap();
    assert!((found[1].metres - 111.2).abs() < 1.0, "{}", found[1].metres);
    let live = world.node(0).fanout.live();
    live.forget("m", "near").await.unwrap();
    live.adopt("m", "here").await.unwrap();
    live.put("m", "middle", centre, SHORT).await.unwrap();
    until(async || near(5_000.0, 9).await == ["here"]).await;
    assert!(world.node(0).fanout.live().near("other", centre, 5_000.0, 9).await.unwrap().is_empty());
}

pub(crate) async fn work_under_a_lock_is_done_by_one_at_a_time(world: World) {
    let (inside, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let work = async |node: usize| {
        for _ in 0..10 {
            let work = async {
                assert!(!inside.swap(true, Ordering::SeqCst), "another caller works");
                tokio::task::yield_now().await;
                inside.store(false, Ordering::SeqCst);
                Ok::<_, FanoutError>(done.fetch_add(1, Ordering::SeqCst))
            };
            world.node(node).fanout.live().exclusively("lock", work).await.unwrap();
        }
    };
    tokio::join!(work(0), work(1), work(0), work(1));
    assert_eq!(done.into_inner(), 40);
}

pub(crate) async fn work_that_fails_or_hangs_does_not_keep_the_lock(world: World) {
    let locked = async |node: usize, work: BoxFuture<'static, Result<(), FanoutError>>| {
        world.node(node).fanout.live().exclusively("failing", work).await
    };
    let failed = locked(0, ready(Err(FanoutError::UnknownNamespace)).boxed()).await;
    assert_eq!(failed, Err(FanoutError::UnknownNamespace));
    assert_eq!(locked(1, ready(Ok(())).boxed()).await, Ok(()));
    assert_eq!(locked(0, pending().boxed()).await, Err(FanoutError::Unavailable));
    assert_eq!(locked(1, ready(Ok(())).boxed()).await, Ok(()));
    let keys = ["failing".to_owned()];
    until(async || world.node(0).fanout.live().get(&keys).await == Ok(vec![None])).await;
}
