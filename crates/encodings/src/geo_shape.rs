//! Circles and boxes on the globe, and the cells to search for the positions within.
//!
//! The globe is a sphere, distances are great circles by the haversine formula, and all floating-point operations are in Redis's
//! order.

use std::f64::consts::PI;

use crate::geohash::{Cell, Position, STEP_MAX};

/// The mean radius that Redis uses, in metres.
const EARTH_RADIUS: f64 = 6_372_797.560_856;
/// The distance of antipodes in metres.
pub const DISTANCE_MAX: f64 = PI * EARTH_RADIUS;
/// Half the circumference of the map, in metres.
const MERCATOR_MAX: f64 = 20_037_726.37;

/// How far a shape reaches from its centre, in any unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Extent {
    /// All within this distance.
    Radius(f64),
    /// All within half the width to the east and west, along the parallel of the position found, and half the height to the north
    /// and south.
    Box {
        /// From west to east.
        width: f64,
        /// From south to north.
        height: f64,
    },
}

/// A part of the globe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// The position in the middle.
    pub centre: Position,
    /// How far it reaches from there.
    pub extent: Extent,
    /// The unit of the extent.
    pub metres_per_unit: f64,
}

fn radians(degrees: f64) -> f64 {
    degrees * (PI / 180.0)
}

fn degrees(radians: f64) -> f64 {
    radians / (PI / 180.0)
}

/// The distance between two positions in metres.
pub fn distance(a: Position, b: Position) -> f64 {
    let v = ((radians(b.longitude) - radians(a.longitude)) / 2.0).sin();
    if v == 0.0 {
        return distance_of_latitudes(a.latitude, b.latitude);
    }
    let (latitude_a, latitude_b) = (radians(a.latitude), radians(b.latitude));
    let u = ((latitude_b - latitude_a) / 2.0).sin();
    let a = u * u + latitude_a.cos() * latitude_b.cos() * v * v;
    2.0 * EARTH_RADIUS * a.sqrt().asin()
}

fn distance_of_latitudes(a: f64, b: f64) -> f64 {
    EARTH_RADIUS * (radians(b) - radians(a)).abs()
}

impl Shape {
    /// The distance of a position from the centre; `None` if it is not in the shape.
    pub fn distance_within(&self, position: Position) -> Option<f64> {
        match self.extent {
            Extent::Radius(radius) => {
                let distance = distance(self.centre, position);
                // Antipodes may have no distance; they count as near, as in Redis.
                let is_outside = distance > radius * self.metres_per_unit;
                (!is_outside).then_some(distance)
            }
            Extent::Box { width, height } => {
                let north = distance_of_latitudes(position.latitude, self.centre.latitude);
                if north > height * self.metres_per_unit / 2.0 {
                    return None;
                }
                let below = Position {
                    latitude: position.latitude,
                    ..self.centre
                };
                let east = distance(position, below);
                let is_outside = east > width * self.metres_per_unit / 2.0;
                (!is_outside).then(|| distance(self.centre, position))
            }
        }
    }

    /// The cells that have all positions of the shape, in the order in which Redis searches them: the cell of the centre, then those
    /// around it.
    pub fn cells(&self) -> Vec<Cell> {
        /// East and north of the centre.
        const AROUND: [(i8, i8); 9] = [
            (0, 0),
            (0, 1),
            (0, -1),
            (1, 0),
            (-1, 0),
            (1, 1),
            (-1, 1),
            (1, -1),
            (-1, -1),
        ];
        let bounds = self.bounds();
        let mut step = self.estimate_step();
        if step > 1 && bounds.exceed_neighbours(self.centre.cell(step)) {
            step -= 1;
        }
        let cell = self.centre.cell(step);
        let area = cell.area();
        let is_needed = |&(east, north): &(i8, i8)| {
            step < 2
                || !(north < 0 && area.latitude.0 < bounds.south
                    || north > 0 && area.latitude.1 > bounds.north
                    || east < 0 && area.longitude.0 < bounds.west
                    || east > 0 && area.longitude.1 > bounds.east)
        };
        let needed = AROUND.into_iter().filter(is_needed);
        let mut cells: Vec<Cell> = Vec::with_capacity(AROUND.len());
        // With very large cells, one lies in several directions. Redis skips one that is the same as the one before, unless
        // that is the cell of the centre.
        for cell in needed.map(|(east, north)| cell.neighbour(east, north)) {
            if cells.len() < 2 || cells.last() != Some(&cell) {
                cells.push(cell);
            }
        }
        cells
    }

    fn bounds(&self) -> Bounds {
        let Position {
            longitude,
            latitude,
        } = self.centre;
        let (half_width, half_height) = match self.extent {
            Extent::Radius(radius) => (radius, radius),
            Extent::Box { width, height } => (width / 2.0, height / 2.0),
        };
        let half_width = self.metres_per_unit * half_width;
        let half_height = self.metres_per_unit * half_height;
        let north = degrees(half_height / EARTH_RADIUS);
        let east = |latitude: f64| degrees(half_width / EARTH_RADIUS / radians(latitude).cos());
        // The edge that is nearer to a pole reaches further.
        let east = if latitude < 0.0 {
            east(latitude - north)
        } else {
            east(latitude + north)
        };
        Bounds {
            west: longitude - east,
            east: longitude + east,
            south: latitude - north,
            north: latitude + north,
        }
    }

    /// How many bits of each coordinate the cells should have, so that the shape is not larger than three by three of them.
    fn estimate_step(&self) -> u32 {
        let range = match self.extent {
            Extent::Radius(radius) => radius,
            Extent::Box { width, height } => {
                let (east, north) = (width / 2.0, height / 2.0);
                (east * east + north * north).sqrt()
            }
        };
        let mut range = range * self.metres_per_unit;
        if range == 0.0 {
            return STEP_MAX;
        }
        let mut step = 1;
        while range < MERCATOR_MAX {
            range *= 2.0;
            step += 1;
        }
        step -= 2;
        // Cells are narrower near the poles.
        let latitude = self.centre.latitude.abs();
        if latitude > 66.0 {
            step -= 1;
        }
        if latitude > 80.0 {
            step -= 1;
        }
        step.clamp(1, STEP_MAX as i32) as u32
    }
}

/// The box around a shape, in degrees.
struct Bounds {
    west: f64,
    east: f64,
    south: f64,
    north: f64,
}

impl Bounds {
    /// True if the box reaches further than a cell's neighbours do.
    fn exceed_neighbours(&self, cell: Cell) -> bool {
        let area = |east, north| cell.neighbour(east, north).area();
        area(0, 1).latitude.1 < self.north
            || area(0, -1).latitude.0 > self.south
            || area(1, 0).longitude.1 < self.east
            || area(-1, 0).longitude.0 > self.west
    }
}

#[cfg(test)]
mod tests;
