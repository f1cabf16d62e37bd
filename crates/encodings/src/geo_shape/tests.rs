//! Shapes against a model: distances by vectors, and a look at every position.

use damselfly_base::random::Random;

use super::*;
use crate::geohash::{LATITUDE_MAX, LONGITUDE_MAX};

fn at(longitude: f64, latitude: f64) -> Position {
    Position::new(longitude, latitude).expect("valid")
}

/// A number from -1 to 1.
fn unit(random: &mut Random) -> f64 {
    random.number() as f64 / u64::MAX as f64 * 2.0 - 1.0
}

/// A position anywhere, or near a pole, the date line or the crossing of equator and prime meridian.
fn position(random: &mut Random) -> Position {
    let near = |random: &mut Random, value: f64, limit: f64| {
        (value + unit(random) * 0.5).clamp(-limit, limit)
    };
    let longitude = match random.below(4) {
        0 => near(random, LONGITUDE_MAX, LONGITUDE_MAX),
        1 => near(random, -LONGITUDE_MAX, LONGITUDE_MAX),
        2 => near(random, 0.0, LONGITUDE_MAX),
        _ => unit(random) * LONGITUDE_MAX,
    };
    let latitude = match random.below(4) {
        0 => near(random, LATITUDE_MAX, LATITUDE_MAX),
        1 => near(random, -LATITUDE_MAX, LATITUDE_MAX),
        2 => near(random, 0.0, LATITUDE_MAX),
        _ => unit(random) * LATITUDE_MAX,
    };
    at(longitude, latitude)
}

fn shape(random: &mut Random, centre: Position) -> Shape {
    let length = |random: &mut Random| match random.below(6) {
        0 => 0.0,
        // From a millimetre to the other side of the globe.
        _ => 10_f64.powf(unit(random) * 5.0 + 2.0),
    };
    let extent = match random.below(2) {
        0 => Extent::Radius(length(random)),
        _ => Extent::Box {
            width: length(random),
            height: length(random),
        },
    };
    Shape {
        centre,
        extent,
        metres_per_unit: [1.0, 1000.0, 0.3048, 1609.34][random.below(4)],
    }
}

/// The distance by vectors in space, which shares no formula with the one under test.
fn distance_in_space(a: Position, b: Position) -> f64 {
    let vector = |position: Position| {
        let (longitude, latitude) = (
            position.longitude.to_radians(),
            position.latitude.to_radians(),
        );
        [
            latitude.cos() * longitude.cos(),
            latitude.cos() * longitude.sin(),
            latitude.sin(),
        ]
    };
    let (a, b) = (vector(a), vector(b));
    let chord = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b) * (a - b))
        .sum::<f64>()
        .sqrt();
    2.0 * EARTH_RADIUS * (chord / 2.0).min(1.0).asin()
}

#[test]
fn distances_agree_with_those_of_vectors() {
    let mut random = Random::for_test();
    for _ in 0..20_000 {
        let (a, b) = (position(&mut random), position(&mut random));
        let (here, there) = (distance(a, b), distance_in_space(a, b));
        // Both formulas are ill-conditioned at antipodes, the second one for short distances.
        let error = 0.001 + (here.max(there) / MERCATOR_MAX).powi(20) * 1.0;
        assert!((here - there).abs() < error, "{a:?} {b:?}: {here} {there}");
    }
}

#[test]
fn a_shape_of_no_extent_has_its_centre() {
    let mut random = Random::for_test();
    for _ in 0..2000 {
        let centre = Position::of_score(position(&mut random).score());
        for extent in [
            Extent::Radius(0.0),
            Extent::Box {
                width: 0.0,
                height: 0.0,
            },
        ] {
            let shape = Shape {
                centre,
                extent,
                metres_per_unit: 1.0,
            };
            assert_eq!(shape.distance_within(centre), Some(0.0));
            assert!(has(&shape, centre), "{shape:?}");
        }
    }
}

/// True if one of the cells to search has the position.
fn has(shape: &Shape, position: Position) -> bool {
    let score = position.score();
    let mut scores = shape.cells().into_iter().map(Cell::scores);
    scores.any(|(min, max)| (min..max).contains(&score))
}

/// Redis does not find what is across the date line or a pole, nor everything that is very far away or near a pole: its cells do
/// not reach there. A great circle bends away from its parallel, so a very wide shape reaches beyond its bounds; Redis does not
/// look there either. Nor does it find what is exactly at the greatest longitude or latitude, whose score is beyond that of the last
/// cell. Everything else must be found.
#[test]
fn the_cells_have_all_positions_in_the_shape() {
    let mut random = Random::for_test();
    let mut checked = 0;
    for _ in 0..4000 {
        let centre = position(&mut random);
        let shape = shape(&mut random, centre);
        let bounds = shape.bounds();
        let is_local = bounds.west >= -LONGITUDE_MAX
            && bounds.east <= LONGITUDE_MAX
            && bounds.south >= -LATITUDE_MAX
            && bounds.north <= LATITUDE_MAX
            && bounds.north.max(-bounds.south) < 80.0;
        for _ in 0..50 {
            let other = at(
                (centre.longitude + unit(&mut random) * (bounds.east - bounds.west).abs())
                    .clamp(-LONGITUDE_MAX, LONGITUDE_MAX),
                (centre.latitude + unit(&mut random) * (bounds.north - bounds.south).abs())
                    .clamp(-LATITUDE_MAX, LATITUDE_MAX),
            );
            // Members are where their scores say.
            let other = Position::of_score(other.score());
            let is_in_bounds = (bounds.west..=bounds.east).contains(&other.longitude)
                && (bounds.south..=bounds.north).contains(&other.latitude);
            let has_a_cell = other.longitude < LONGITUDE_MAX && other.latitude < LATITUDE_MAX;
            if is_local && is_in_bounds && has_a_cell && shape.distance_within(other).is_some() {
                checked += 1;
                assert!(has(&shape, other), "{shape:?} {other:?}");
            }
        }
    }
    assert!(checked > 1000, "{checked}");
}

#[test]
fn a_box_is_as_wide_at_every_latitude() {
    let shape = Shape {
        centre: at(10.0, 60.0),
        extent: Extent::Box {
            width: 200.0,
            height: 200.0,
        },
        metres_per_unit: 1000.0,
    };
    let degrees_of_100_km =
        |latitude: f64| degrees(100_000.0 / EARTH_RADIUS) / radians(latitude).cos();
    for latitude in [59.2, 60.0, 60.8] {
        let east = degrees_of_100_km(latitude);
        let within = |longitude| shape.distance_within(at(longitude, latitude)).is_some();
        assert!(within(10.0 + east * 0.999) && !within(10.0 + east * 1.001));
    }
}
