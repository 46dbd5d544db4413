//! The bounded map whose entries expire.

use std::time::{Duration, Instant};

use shared::expiring::{ExpiringMap, Full};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_entry_is_there_until_it_expires() {
    let (mut map, start) = (ExpiringMap::new(10), Instant::now());
    assert_eq!(map.insert("a", 1, start + SECOND, start), Ok(()));
    assert_eq!(map.get("a", start), Some(&1));
    assert_eq!(map.get_mut("a", start).map(|value| std::mem::replace(value, 2)), Some(1));
    assert_eq!(map.iter(start).collect::<Vec<_>>(), [(&"a", &2)]);
    let later = start + SECOND;
    assert_eq!(map.get("a", later), None);
    assert_eq!(map.get_mut("a", later), None);
    assert_eq!(map.iter(later).count(), 0);
    assert_eq!(map.remove("a", later), None);
    assert_eq!(map.insert("a", 3, later + SECOND, later), Ok(()));
    assert_eq!((map.remove("a", later), map.get("a", later)), (Some(3), None));
}

#[test]
fn a_full_map_refuses_new_keys_until_something_expires() {
    let (mut map, start) = (ExpiringMap::new(2), Instant::now());
    for (key, seconds) in [("a", 1), ("b", 3)] {
        assert_eq!(map.insert(key, 0, start + SECOND * seconds, start), Ok(()));
    }
    assert_eq!(map.insert("c", 0, start + SECOND, start), Err(Full));
    assert_eq!(map.insert("a", 1, start + SECOND * 2, start), Ok(()), "a key that is there already");
    assert_eq!(map.insert("c", 0, start + SECOND * 9, start + SECOND), Err(Full), "`a` was prolonged");
    assert_eq!(map.insert("c", 0, start + SECOND * 9, start + SECOND * 2), Ok(()));
    assert_eq!(map.get("a", start), None, "it made room");
    assert_eq!(map.insert("d", 0, start + SECOND * 9, start + SECOND * 2), Err(Full));
    assert_eq!(map.insert("d", 0, start + SECOND * 9, start + SECOND * 3), Ok(()));
}
