use std::collections::HashSet;

use fanout::metres_between;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::cursor::Key;
use super::scan::ROUNDING;
use super::*;
use crate::records::columns::Columns as _;
use crate::records::squares::middle;
use crate::records::{Records, cell, raisers};

const TABLE: Table = Table("sos_incidents");
const CENTRE: Place = Place { latitude: 48.85, longitude: 2.35 };

/// An incident of a test.
#[derive(Debug, Clone)]
struct Made {
    id: String,
    user: String,
    place: Place,
    is_extra: bool,
}

async fn records() -> Records {
    Records::open("sqlite::memory:").await.unwrap()
}

/// Opens an incident like the app.
async fn open(records: &Records, number: usize, user: &str, place: Place) -> Made {
    let id = format!("{number:08x}");
    let mut transaction = records.pool().begin().await.unwrap();
    raisers::lock(&mut transaction, TABLE, user).await.unwrap();
    let flags = raisers::open(&mut transaction, TABLE, user).await.unwrap();
    let sql = "INSERT INTO sos_incidents (id, user_id, latitude, longitude, status, created_at, cell, is_extra, \
        has_siblings) VALUES ($1, $2, $3, $4, 'ACTIVE', $5, $6, $7, $8)";
    sqlx::query(sql)
        .bind(&id)
        .bind(user)
        .bind(place.latitude)
        .bind(place.longitude)
        .bind(i64::try_from(number).unwrap())
        .bind(cell(place))
        .bind(flags.is_extra)
        .bind(flags.has_siblings)
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    Made { id, user: user.to_owned(), place, is_extra: flags.is_extra == 1 }
}

async fn end(records: &Records, made: &Made) {
    let mut transaction = records.pool().begin().await.unwrap();
    raisers::lock(&mut transaction, TABLE, &made.user).await.unwrap();
    let sql = "UPDATE sos_incidents SET ended_at = 1 WHERE id = $1";
    sqlx::query(sql).bind(&made.id).execute(&mut *transaction).await.unwrap();
    raisers::settle(&mut transaction, TABLE, &made.user).await.unwrap();
    transaction.commit().await.unwrap();
}

/// All pages; each cursor is serialized and parsed.
async fn walk(records: &Records, around: Place, radius: f64, limit: usize) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let looked = Looked { around, radius, after, limit };
        let read = |row: &TextRow<'_>| row.get::<String>(0);
        let page = nearby(records.pool(), TABLE, &looked, (&["id"], read)).await.unwrap();
        assert!(page.near.len() <= limit);
        all.extend(page.near.into_iter().map(|(id, _)| id));
        let Some(next) = page.next else { return all };
        assert_eq!(Cursor::parse(&next.text()), Some(next.clone()));
        after = Some(next);
    }
}

/// The same result from a scan of all of them.
fn by_hand(all: &[Made], around: Place, radius: f64) -> Vec<String> {
    let key = |made: &Made| {
        let cell = cell(made.place);
        Key { metres: metres_between(around, middle(cell)), cell, id: made.id.clone() }
    };
    let mut near: Vec<(Key, &Made)> = all.iter().map(|made| (key(made), made)).collect();
    near.retain(|(key, _)| key.metres <= radius + ROUNDING);
    near.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut seen = HashSet::new();
    let (first, further): (Vec<_>, Vec<_>) =
        near.into_iter().partition(|(_, made)| !made.is_extra && seen.insert(&made.user));
    first.into_iter().chain(further).map(|(_, made)| made.id.clone()).collect()
}

#[tokio::test]
async fn pages_equal_a_scan_of_all_of_them() {
    let mut random = StdRng::seed_from_u64(11);
    for (centre, spread) in [
        (CENTRE, 0.001),
        (CENTRE, 1.0),
        (Place { latitude: 0.0, longitude: 180.0 }, 0.05),
        (Place { latitude: 89.99, longitude: 10.0 }, 0.05),
    ] {
        let records = records().await;
        let mut made = Vec::new();
        for number in 0..600 {
            let user = format!("u{}", random.random_range(0..200_u32).min(random.random_range(0..200)));
            let east = centre.longitude + random.random_range(-spread..spread);
            let place = Place {
                latitude: (centre.latitude + random.random_range(-spread..spread)).min(90.0),
                longitude: if east > 180.0 { east - 360.0 } else { east },
            };
            // Some are at the same spot.
            let place = if number % 5 == 0 { centre } else { place };
            made.push(open(&records, number, &user, place).await);
        }
        for (radius, limit) in [(100.0, 7), (5_000.0, 100), (100_000.0, 33)] {
            let found = walk(&records, centre, radius, limit).await;
            assert_eq!(found, by_hand(&made, centre, radius), "{centre:?} {spread} {radius} {limit}");
        }
    }
}

/// If one region is dense and its surroundings are sparse, the survey is wrong in one of them.
#[tokio::test]
async fn pages_are_right_where_it_is_not_equally_dense() {
    let mut random = StdRng::seed_from_u64(13);
    for (spots, around_spots, beyond) in [(1, 1e-9, 200), (3, 1e-6, 100), (40, 1e-5, 0), (2, 1e-3, 3)] {
        let records = records().await;
        let mut made = Vec::new();
        let mut near = |place: Place, by: f64| Place {
            latitude: place.latitude + random.random_range(-by..by),
            longitude: place.longitude + random.random_range(-by..by),
        };
        let spots: Vec<Place> = (0..spots).map(|_| near(CENTRE, 0.002)).collect();
        for number in 0..600 {
            let place = if number < beyond {
                near(CENTRE, 0.05)
            } else {
                near(spots[number % spots.len()], around_spots)
            };
            made.push(open(&records, number, &format!("u{}", number % 450), place).await);
        }
        for (around, limit) in [(CENTRE, 100), (CENTRE, 20), (spots[0], 100), (spots[0], 3)] {
            let found = walk(&records, around, 50_000.0, limit).await;
            assert_eq!(found, by_hand(&made, around, 50_000.0), "{around_spots} {beyond} {limit}");
        }
    }
}

/// `VACUUM` gives rows other numbers between the two statements that use them.
#[tokio::test]
async fn records_are_found_though_their_rows_have_other_numbers() {
    let records = records().await;
    for number in 0..20 {
        open(&records, number, &format!("u{number}"), CENTRE).await;
    }
    let mut connection = records.pool().acquire().await.unwrap();
    let looked = Looked { around: CENTRE, radius: 100.0, after: None, limit: 100 };
    let (mut found, _) = candidates(&mut connection, TABLE, &looked).await.unwrap();
    let mut rows: Vec<i64> = found.iter().map(|candidate| candidate.row).collect();
    rows.rotate_left(7);
    rows[0] = i64::MAX;
    for (candidate, row) in found.iter_mut().zip(rows) {
        candidate.row = row;
    }
    let ids: Vec<String> = found.iter().map(|candidate| candidate.key.id.clone()).collect();
    let read = |row: &TextRow<'_>| row.get::<String>(0);
    let near = records_of(&mut connection, TABLE, &found, (&["id"], read)).await.unwrap();
    assert_eq!(near.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn many_in_one_spot_are_read_in_pages() {
    let records = records().await;
    let mut made = Vec::new();
    for number in 0..400 {
        made.push(open(&records, number, &format!("u{number}"), CENTRE).await);
    }
    assert_eq!(walk(&records, CENTRE, 0.0, 10).await, by_hand(&made, CENTRE, 0.0));
    assert_eq!(walk(&records, CENTRE, 5_000.0, 100).await.len(), 400);
}

#[tokio::test]
async fn one_users_many_come_after_the_first_of_every_user() {
    let records = records().await;
    for number in 0..300 {
        open(&records, number, "faker", CENTRE).await;
    }
    let far = Place { latitude: CENTRE.latitude + 0.003, ..CENTRE };
    let real = open(&records, 300, "real", far).await;
    let found = walk(&records, CENTRE, 5_000.0, 100).await;
    assert_eq!((found.len(), &found[1]), (301, &real.id));
}

#[tokio::test]
async fn flags_follow_what_is_open() {
    let records = records().await;
    let mut made = Vec::new();
    for number in 0..13 {
        made.push(open(&records, number, "u", CENTRE).await);
    }
    let flags = || async {
        let sql = "SELECT is_extra, has_siblings FROM sos_incidents WHERE ended_at IS NULL ORDER BY id";
        let rows = sqlx::query(sql).fetch_all(records.pool()).await.unwrap();
        let flag = |row: &AnyRow, at: usize| row.try_get::<i64, _>(at).unwrap();
        rows.iter().map(|row| (flag(row, 0), flag(row, 1))).collect::<Vec<_>>()
    };
    let expected = |leading: usize, extra: usize| [vec![(0, 1); leading], vec![(1, 1); extra]].concat();
    assert_eq!(flags().await, expected(10, 3));
    for made in &made[..2] {
        end(&records, made).await;
    }
    assert_eq!(flags().await, expected(10, 1));
    for made in &made[2..12] {
        end(&records, made).await;
    }
    assert_eq!(flags().await, [(0, 0)]);
}

#[tokio::test]
async fn those_of_an_older_version_get_their_squares() {
    let records = records().await;
    let sql = "INSERT INTO sos_incidents (id, user_id, latitude, longitude, status, created_at) \
        VALUES ($1, 'old', 48.85, 2.35, 'ACTIVE', 1)";
    for number in 0..12 {
        sqlx::query(sql).bind(format!("{number:02}")).execute(records.pool()).await.unwrap();
    }
    assert_eq!(walk(&records, CENTRE, 100.0, 100).await.len(), 0);
    assert_eq!(raisers::fill_cells(records.pool(), TABLE).await.unwrap(), 12);
    assert_eq!(raisers::fill_cells(records.pool(), TABLE).await.unwrap(), 0);
    assert_eq!(walk(&records, CENTRE, 100.0, 5).await.len(), 12);
}

#[tokio::test]
async fn a_users_rate_of_raising_is_in_the_records() {
    let records = records().await;
    let take = async |now_ms| {
        let mut transaction = records.pool().begin().await.unwrap();
        let wait = raisers::take(&mut transaction, TABLE, "u", now_ms).await.unwrap();
        transaction.commit().await.unwrap();
        wait
    };
    let now = 1_000_000_000;
    for _ in 0..10 {
        assert_eq!(take(now).await, None);
    }
    assert_eq!(take(now).await, Some(6));
    assert_eq!(take(now + 4_500).await, Some(2));
    assert_eq!(take(now + 6_000).await, None);
    assert_eq!(take(now + 6_000).await, Some(6));
    // A node whose clock is an hour behind does not stop the user from raising.
    assert_eq!(take(now - 3_600_000).await, None);
}

#[test]
fn a_foreign_cursor_is_refused() {
    let cursor = Cursor { rank: Rank::Further, after: Key { metres: 12.5, cell: 77, id: "a-1".into() } };
    let text = cursor.text();
    assert_eq!(Cursor::parse(&text), Some(cursor));
    let negative = format!("0{:016x}{:016x}a", (-1.0_f64).to_bits(), 1);
    let endless = format!("0{:016x}{:016x}a", f64::NAN.to_bits(), 1);
    for bad in ["", "0", "2", &text[..33], &text[1..], &negative, &endless, "0ä", &text.replace('a', "\0")] {
        assert_eq!(Cursor::parse(bad), None, "{bad:?}");
    }
}
