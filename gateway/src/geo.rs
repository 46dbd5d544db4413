//! Places that clients tell, and the area of the records in which to look around one.

use fanout::Place;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::describe::forms::{Latitude, Longitude};
use crate::error::AppError;

/// Metres of a degree of latitude, a little less than the least there is.
const METRES_A_DEGREE: f64 = 110_000.0;

/// A place.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub(crate) struct Degrees {
    #[schemars(with = "Latitude")]
    pub(crate) latitude: f64,
    #[schemars(with = "Longitude")]
    pub(crate) longitude: f64,
}

impl Degrees {
    /// The place, if there is such a one on earth.
    ///
    /// # Errors
    /// [`AppError::BadInput`].
    pub(crate) fn place(self) -> Result<Place, AppError> {
        let Self { latitude, longitude } = self;
        if (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude) {
            Ok(Place { latitude, longitude })
        } else {
            Err(AppError::BadInput("Invalid latitude or longitude".into()))
        }
    }
}

/// Where to look: degrees, of longitude two ranges where the date line lies between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Area {
    pub(crate) latitudes: (f64, f64),
    pub(crate) longitudes: [(f64, f64); 2],
    /// The nearest to it come first.
    pub(crate) centre: Place,
    /// What a degree of longitude is to one of latitude there, squared.
    pub(crate) squeeze: f64,
}

impl Area {
    /// What holds every place within `radius` metres, and a little more.
    pub(crate) fn around(centre: Place, radius: f64) -> Self {
        let Place { latitude, longitude } = centre;
        let reach = radius / METRES_A_DEGREE;
        let latitudes = (latitude - reach, latitude + reach);
        // The meridians are nearest to each other at the end that is nearest to a pole.
        let narrowest = (latitude.abs() + reach).min(90.0).to_radians().cos();
        let across = reach / narrowest.max(1e-9);
        let (west, east) = (longitude - across, longitude + across);
        let whole = (-180.0, 180.0);
        let longitudes = if across >= 180.0 {
            [whole, whole]
        } else if west < -180.0 {
            [(-180.0, east), (west + 360.0, 180.0)]
        } else if east > 180.0 {
            [(west, 180.0), (-180.0, east - 360.0)]
        } else {
            [(west, east), (west, east)]
        };
        let squeeze = latitude.to_radians().cos().powi(2);
        Self { latitudes, longitudes, centre, squeeze }
    }
}

#[cfg(test)]
mod tests {
    use fanout::metres_between;

    use super::*;

    #[test]
    fn an_area_holds_every_place_that_is_near_enough() {
        let place = |(latitude, longitude)| Place { latitude, longitude };
        let inside = |area: &Area, place: Place| {
            let between = |(from, to): (f64, f64), degree: f64| (from..=to).contains(&degree);
            between(area.latitudes, place.latitude)
                && area.longitudes.iter().any(|range| between(*range, place.longitude))
        };
        for centre in [(0.0, 0.0), (48.9, 2.4), (0.0, 179.9), (-60.0, -179.99), (89.9, 10.0), (-90.0, 0.0)] {
            let area = Area::around(place(centre), 50_000.0);
            for step in 0..3_600 {
                let (north, east) = (f64::from(step % 60) / 60.0 - 0.5, f64::from(step / 60) * 6.0 - 180.0);
                let latitude = (centre.0 + north).clamp(-90.0, 90.0);
                for longitude in [east, (centre.1 + north + 540.0) % 360.0 - 180.0] {
                    let near = place((latitude, longitude));
                    let is_far = metres_between(place(centre), near) > 50_000.0;
                    assert!(is_far || inside(&area, near), "{centre:?} {near:?}");
                }
            }
        }
        assert!(!inside(&Area::around(place((48.9, 2.4)), 50_000.0), place((48.9, 4.0))));
    }

    #[test]
    fn a_place_is_on_earth() {
        for (latitude, longitude, is_place) in [
            (90.0, 180.0, true),
            (-90.0, -180.0, true),
            (90.1, 0.0, false),
            (0.0, 180.1, false),
            (f64::NAN, 0.0, false),
        ] {
            assert_eq!(Degrees { latitude, longitude }.place().is_ok(), is_place, "{latitude} {longitude}");
        }
    }
}
