//! Squares of the earth: its surface halved in both directions again and again, so that nearby positions are in few
//! ranges of one indexed column.
//!
//! The bits of its halvings name a square, north and east in turn. All smaller squares within it have these bits as a
//! prefix, so any square is one range of the smallest squares ([`Square::range`]). Bounds of the distance to a square
//! come from the haversine's own terms, so neither the date line nor the poles need special handling.

use fanout::{EARTH_RADIUS, Place, metres_between};

/// Halvings down to the smallest squares, which are 2 by 4 centimetres at the equator.
pub(crate) const FINEST: u32 = 30;

/// The bounds of a square in degrees.
#[derive(Debug, Clone, Copy)]
struct Degrees {
    south: f64,
    north: f64,
    west: f64,
    east: f64,
}

/// A square of some size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Square {
    level: u32,
    code: i64,
}

/// The smallest square around a place.
pub(crate) fn cell(place: Place) -> i64 {
    let index = |degrees: f64, span: f64| {
        let cells = f64::from(1_u32 << FINEST);
        let index = ((degrees / span + 0.5) * cells).floor().clamp(0.0, cells - 1.0);
        #[expect(clippy::cast_possible_truncation, reason = "clamped to 30 bits just before")]
        let index = index as i64;
        index
    };
    let (north, east) = (index(place.latitude, 180.0), index(place.longitude, 360.0));
    (0..FINEST)
        .fold(0, |code, bit| code | (north >> bit & 1) << (2 * bit + 1) | (east >> bit & 1) << (2 * bit))
}

/// The bits of a code at even positions, moved together. Every search computes this some hundred times.
fn even_bits(code: i64) -> i64 {
    let halves = [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ];
    halves.into_iter().fold(code & 0x5555_5555_5555_5555, |bits, (by, mask)| (bits | bits >> by) & mask)
}

/// The middle of a smallest square, which represents every position in it.
pub(crate) fn middle(cell: i64) -> Place {
    let Degrees { south, north, west, east } = Square { level: FINEST, code: cell }.degrees();
    Place { latitude: f64::midpoint(south, north), longitude: f64::midpoint(west, east) }
}

impl Square {
    /// The whole earth.
    pub(crate) const EARTH: Self = Self { level: 0, code: 0 };

    /// How often the earth was halved in both directions to get this square.
    pub(crate) fn level(self) -> u32 {
        self.level
    }

    /// Whether it is a smallest square.
    pub(crate) fn is_finest(self) -> bool {
        self.level == FINEST
    }

    /// The first and the last smallest square in it.
    pub(crate) fn range(self) -> (i64, i64) {
        let shift = 2 * (FINEST - self.level);
        let first = self.code << shift;
        (first, first | ((1 << shift) - 1))
    }

    /// The squares in it after some halvings, or the smallest ones.
    pub(crate) fn parts(self, halvings: u32) -> impl Iterator<Item = Self> {
        let level = (self.level + halvings).min(FINEST);
        let shift = 2 * (level - self.level);
        (0..1_i64 << shift).map(move |part| Self { level, code: self.code << shift | part })
    }

    /// Bounds of the distance in metres from a position to the middle of any smallest square in it.
    pub(crate) fn metres_from(self, place: Place) -> (f64, f64) {
        if self.is_finest() {
            let metres = metres_between(place, middle(self.code));
            return (metres, metres);
        }
        let Degrees { south, north, west, east } = self.degrees();
        let Place { latitude, longitude } = place;
        let (to_south, to_north) = ((latitude - south).abs(), (latitude - north).abs());
        let lowest = if (south..=north).contains(&latitude) { 0.0 } else { to_south.min(to_north) };
        let turn = |a: f64, b: f64| {
            let between = (a - b).abs() % 360.0;
            between.min(360.0 - between)
        };
        let (to_west, to_east) = (turn(longitude, west), turn(longitude, east));
        let nearest = if (west..=east).contains(&longitude) { 0.0 } else { to_west.min(to_east) };
        let opposite = if longitude > 0.0 { longitude - 180.0 } else { longitude + 180.0 };
        let farthest = if (west..=east).contains(&opposite) { 180.0 } else { to_west.max(to_east) };
        let cosine = |degrees: f64| degrees.to_radians().cos().max(0.0);
        let narrowest = cosine(south).min(cosine(north));
        let widest = if south < 0.0 && north > 0.0 { 1.0 } else { cosine(south).max(cosine(north)) };
        let metres = |north: f64, east: f64, cosine_there: f64| {
            let half_sine = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
            let chord = half_sine(north) + cosine(latitude) * cosine_there * half_sine(east);
            2.0 * EARTH_RADIUS * chord.sqrt().min(1.0).asin()
        };
        // Rounding must not make the bounds too tight.
        let least = metres(lowest, nearest, narrowest) * (1.0 - 1e-9) - 1e-6;
        let most = metres(to_south.max(to_north), farthest, widest) * (1.0 + 1e-9) + 1e-6;
        (least.max(0.0), most)
    }

    fn degrees(self) -> Degrees {
        #[expect(clippy::cast_precision_loss, reason = "30 bits are exact")]
        let (north, east) = (even_bits(self.code >> 1) as f64, even_bits(self.code) as f64);
        let parts = f64::from(1_u32 << self.level);
        let (height, width) = (180.0 / parts, 360.0 / parts);
        let (south, west) = (north * height - 90.0, east * width - 180.0);
        Degrees { south, north: south + height, west, east: west + width }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn place(latitude: f64, longitude: f64) -> Place {
        Place { latitude, longitude }
    }

    #[test]
    fn the_middle_of_a_cell_is_near_its_place() {
        for (latitude, longitude) in
            [(0.0, 0.0), (48.85, 2.35), (-33.9, 151.2), (90.0, 180.0), (-90.0, -180.0), (12.3, -179.999_999)]
        {
            let there = place(latitude, longitude);
            assert!(metres_between(there, middle(cell(there))) < 0.03, "{there:?}");
        }
    }

    #[test]
    fn bounds_hold_for_every_place_in_a_square() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..20_000 {
            let from = place(random.random_range(-90.0..=90.0), random.random_range(-180.0..=180.0));
            let there = cell(place(random.random_range(-90.0..=90.0), random.random_range(-180.0..=180.0)));
            let near = cell(place(
                (from.latitude + random.random_range(-0.1..0.1)).clamp(-90.0, 90.0),
                (from.longitude + random.random_range(-0.1..0.1)).clamp(-180.0, 180.0),
            ));
            for cell in [there, near] {
                let level = random.random_range(0..=FINEST);
                let square = Square { level, code: cell >> (2 * (FINEST - level)) };
                let (first, last) = square.range();
                assert!((first..=last).contains(&cell));
                let (least, most) = square.metres_from(from);
                let metres = metres_between(from, middle(cell));
                assert!(least <= metres && metres <= most, "{from:?} {square:?} {least} {metres} {most}");
            }
        }
    }

    #[test]
    fn parts_make_up_the_whole() {
        let mut end = -1;
        for part in Square::EARTH.parts(2) {
            let (first, last) = part.range();
            assert_eq!(first, end + 1);
            end = last;
        }
        assert_eq!(end, Square::EARTH.range().1);
        assert_eq!(Square { level: FINEST - 1, code: 5 }.parts(2).count(), 4);
    }
}
