//! Coordinates that clients send.

use fanout::Place;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::describe::forms::{Latitude, Longitude};
use crate::error::AppError;

/// A position.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[schemars(rename = "Coordinates")]
pub(crate) struct Degrees {
    #[schemars(with = "Latitude")]
    pub(crate) latitude: f64,
    #[schemars(with = "Longitude")]
    pub(crate) longitude: f64,
}

impl Degrees {
    /// The validated position.
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

#[cfg(test)]
mod tests {
    use super::*;

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
