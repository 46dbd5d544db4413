//! Extractors that validate a request's path and query.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use schemars::JsonSchema;
use serde::Deserialize;
use shared::limits::{NEARBY_MAX, NEARBY_RADIUS, NEARBY_RADIUS_MAX, PAGE_MAX};
use shared::names::{Room, is_id, is_name};

use crate::describe::forms::{Latitude, Longitude};
use crate::error::AppError;
use crate::geo::Degrees;
use crate::records::{Cursor, Looked};

/// The validated names in a path.
pub(crate) struct Names<const N: usize>(pub(crate) [String; N]);

impl<const N: usize, S: Send + Sync> FromRequestParts<S> for Names<N> {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AppError> {
        let invalid = || AppError::BadInput("Invalid path".into());
        let path = Path::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Path(named) = path.map_err(|_| invalid())?;
        for (key, value) in &named {
            let is_good = match key.as_str() {
                "userId" => is_id(value),
                "room" => Room::of_cluster(value).is_some(),
                _ => is_name(value),
            };
            if !is_good {
                return Err(AppError::BadInput(format!("Invalid {key}").into()));
            }
        }
        let values: Vec<String> = named.into_iter().map(|(_, value)| value).collect();
        values.try_into().map(Self).map_err(|_| invalid())
    }
}

/// `?latitude=&longitude=&radius=&limit=&cursor=`.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct AroundQuery {
    #[schemars(with = "Latitude")]
    latitude: f64,
    #[schemars(with = "Longitude")]
    longitude: f64,
    /// Metres. Default: 5,000.
    #[schemars(range(min = 0.0, max = NEARBY_RADIUS_MAX))]
    radius: Option<f64>,
    /// 1 to 100, clamped. Default: 100.
    #[schemars(with = "Option<i64>")]
    limit: Option<String>,
    /// The `nextCursor` of the previous page, with the same place and radius.
    cursor: Option<String>,
}

/// A request for a page of what is around a place.
pub(crate) struct Around(pub(crate) Looked);

impl<S: Send + Sync> FromRequestParts<S> for Around {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AppError> {
        let query = Query::<AroundQuery>::from_request_parts(parts, state).await;
        let Query(AroundQuery { latitude, longitude, radius, limit, cursor }) =
            query.map_err(|_| AppError::BadInput("Expected latitude, longitude and radius?".into()))?;
        let radius = radius.unwrap_or(NEARBY_RADIUS);
        if !(0.0..=NEARBY_RADIUS_MAX).contains(&radius) {
            let say = format!("Invalid radius: expected 0 to {NEARBY_RADIUS_MAX} metres");
            return Err(AppError::BadInput(say.into()));
        }
        let around = Degrees { latitude, longitude }.place()?;
        let limit = limit.map_or(Ok(i64::from(NEARBY_MAX)), |limit| limit.parse());
        let limit = limit.map_err(|_| AppError::BadInput("Invalid limit".into()))?;
        let limit = usize::try_from(limit.clamp(1, i64::from(NEARBY_MAX))).unwrap_or(1);
        let after =
            cursor.map(|text| Cursor::parse(&text).ok_or(AppError::BadInput("Invalid cursor".into())));
        Ok(Self(Looked { around, radius, after: after.transpose()?, limit }))
    }
}

/// `?limit=&before=`. A number is clamped; anything else is refused.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct PageQuery {
    /// 1 to 100, clamped. Default: 100.
    limit: Option<i64>,
    /// A record's id, or a time. The page ends before it.
    before: Option<String>,
}

/// A request for a page.
pub(crate) struct Paged {
    pub(crate) limit: u32,
    pub(crate) before: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Paged {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AppError> {
        let query = Query::<PageQuery>::from_request_parts(parts, state).await;
        let Query(PageQuery { limit, before }) =
            query.map_err(|_| AppError::BadInput("Invalid limit or before".into()))?;
        if before.as_ref().is_some_and(|before| before.len() > 128 || before.contains('\0')) {
            return Err(AppError::BadInput("Invalid before".into()));
        }
        let limit = limit.unwrap_or(i64::from(PAGE_MAX)).clamp(1, i64::from(PAGE_MAX));
        Ok(Self { limit: u32::try_from(limit).unwrap_or(PAGE_MAX), before })
    }
}
