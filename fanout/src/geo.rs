//! Places on earth, and distances between them.

/// The mean radius of the earth in metres.
pub const EARTH_RADIUS: f64 = 6_371_008.8;

/// Degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// North is positive.
    pub latitude: f64,
    /// East is positive.
    pub longitude: f64,
}

/// An entry near a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Near {
    /// Its id.
    pub id: String,
    /// Its place.
    pub place: Place,
    /// The distance along a great circle.
    pub metres: f64,
}

/// The distance between two places in metres, along a great circle.
#[must_use]
pub fn metres_between(a: Place, b: Place) -> f64 {
    let half = |from: f64, to: f64| (to - from).to_radians() / 2.0;
    let (latitude, longitude) = (half(a.latitude, b.latitude), half(a.longitude, b.longitude));
    let cosines = a.latitude.to_radians().cos() * b.latitude.to_radians().cos();
    let chord = latitude.sin().powi(2) + cosines * longitude.sin().powi(2);
    2.0 * EARTH_RADIUS * chord.sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metres(a: (f64, f64), b: (f64, f64)) -> f64 {
        let place = |(latitude, longitude)| Place { latitude, longitude };
        metres_between(place(a), place(b))
    }

    #[test]
    fn distances_are_great_circles() {
        let (paris, london) = ((48.8566, 2.3522), (51.5074, -0.1278));
        assert!((metres(paris, london) - 343_556.0).abs() < 100.0, "{}", metres(paris, london));
        assert!(metres(paris, paris) < 0.001);
        let across = metres((0.0, 179.9), (0.0, -179.9));
        assert!((across - 22_239.0).abs() < 10.0, "{across}");
        assert!((metres((90.0, 0.0), (-90.0, 77.0)) - 20_015_115.0).abs() < 10.0);
    }
}
