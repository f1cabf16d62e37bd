//! Positions as geohashes: the bits of longitude and latitude, interleaved.
//!
//! ```text
//! score of a member   52 bits:  x25 y25 x24 y24 ... x0 y0      x: longitude, y: latitude
//! ```
//!
//! A geohash of fewer bits names the cell of all positions whose geohash begins with it. Latitudes reach as far as in the Mercator
//! projection of web maps (EPSG:3857). All floating-point operations are in Redis's order, so that scores and positions agree to the
//! last bit.

/// A position in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// -180 to 180.
    pub longitude: f64,
    /// -85.05112878 to 85.05112878.
    pub latitude: f64,
}

/// The greatest longitude.
pub const LONGITUDE_MAX: f64 = 180.0;
/// The greatest latitude.
pub const LATITUDE_MAX: f64 = 85.051_128_78;

/// Bits for each coordinate in a score.
pub const STEP_MAX: u32 = 26;

/// The bits of a longitude; those of a latitude are one lower.
const X_BITS: u64 = 0xaaaa_aaaa_aaaa_aaaa;
const Y_BITS: u64 = !X_BITS;

/// A cell of the globe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Twice as many bits as `step`, unless the position is at the greatest longitude or latitude.
    pub bits: u64,
    /// Bits for each coordinate, 1 to [`STEP_MAX`].
    pub step: u32,
}

/// The borders of a cell.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Least and greatest longitude.
    pub longitude: (f64, f64),
    /// Least and greatest latitude.
    pub latitude: (f64, f64),
}

impl Position {
    /// The position, if it is within the limits.
    pub fn new(longitude: f64, latitude: f64) -> Option<Self> {
        let is_valid = (-LONGITUDE_MAX..=LONGITUDE_MAX).contains(&longitude)
            && (-LATITUDE_MAX..=LATITUDE_MAX).contains(&latitude);
        is_valid.then_some(Self {
            longitude,
            latitude,
        })
    }

    /// The score of a member at this position: an integer.
    pub fn score(self) -> f64 {
        self.cell(STEP_MAX).bits as f64
    }

    /// The position that a score stands for: the middle of its cell. Any score stands for some position.
    pub fn of_score(score: f64) -> Self {
        let cell = Cell {
            bits: to_u64(score),
            step: STEP_MAX,
        };
        let Area {
            longitude,
            latitude,
        } = cell.area();
        let middle = |(min, max): (f64, f64), limit: f64| ((min + max) / 2.0).clamp(-limit, limit);
        Self {
            longitude: middle(longitude, LONGITUDE_MAX),
            latitude: middle(latitude, LATITUDE_MAX),
        }
    }

    /// The cell around this position.
    pub fn cell(self, step: u32) -> Cell {
        self.cell_within(step, LATITUDE_MAX)
    }

    fn cell_within(self, step: u32, latitude_max: f64) -> Cell {
        let offset = |value: f64, max: f64| {
            let offset = (value + max) / (max + max);
            (offset * (1_u64 << step) as f64) as u32
        };
        let x = offset(self.longitude, LONGITUDE_MAX);
        let y = offset(self.latitude, latitude_max);
        Cell {
            bits: spread(x) << 1 | spread(y),
            step,
        }
    }

    /// The standard geohash of eleven characters, whose latitudes reach to the poles. The last one is always `0`, since a score has
    /// no bits for it.
    pub fn geohash(self) -> [u8; 11] {
        const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        const LATITUDE_MAX: f64 = 90.0;
        let bits = self.cell_within(STEP_MAX, LATITUDE_MAX).bits;
        std::array::from_fn(|index| {
            let shift = (2 * STEP_MAX as usize).checked_sub((index + 1) * 5);
            ALPHABET[shift.map_or(0, |shift| (bits >> shift & 0x1f) as usize)]
        })
    }
}

impl Cell {
    /// The borders.
    pub fn area(self) -> Area {
        let borders = |index: u32, max: f64| {
            let border =
                |index: u32| -max + f64::from(index) / (1_u64 << self.step) as f64 * (max + max);
            (border(index), border(index.wrapping_add(1)))
        };
        Area {
            longitude: borders(gather(self.bits >> 1), LONGITUDE_MAX),
            latitude: borders(gather(self.bits), LATITUDE_MAX),
        }
    }

    /// The cell that is so many columns to the east and rows to the north, -1 to 1 each. The globe has no edge in the east and
    /// west, nor does Redis's have one in the north and south.
    #[must_use]
    pub fn neighbour(self, east: i8, north: i8) -> Self {
        let used = |bits: u64| bits >> (64 - 2 * self.step);
        let x = shift(self.bits & X_BITS, used(Y_BITS), east) & used(X_BITS);
        let x = if east == 0 { self.bits & X_BITS } else { x };
        let y = shift(self.bits & Y_BITS, used(X_BITS), north) & used(Y_BITS);
        let y = if north == 0 { self.bits & Y_BITS } else { y };
        Self {
            bits: x | y,
            ..self
        }
    }

    /// The scores of the positions in this cell: from the first up to, but without, the second.
    pub fn scores(self) -> (f64, f64) {
        let align = |bits: u64| (bits << (2 * (STEP_MAX - self.step))) as f64;
        (align(self.bits), align(self.bits + 1))
    }
}

/// Adds one to or subtracts one from every other bit; `between` are the bits between them.
fn shift(bits: u64, between: u64, by: i8) -> u64 {
    if by > 0 {
        bits.wrapping_add(between + 1)
    } else {
        (bits | between).wrapping_sub(between + 1)
    }
}

/// Moves every bit to twice its place.
fn spread(bits: u32) -> u64 {
    let mut spread = u64::from(bits);
    for (shift, mask) in STEPS.into_iter().rev() {
        spread = (spread | spread << shift) & mask;
    }
    spread
}

/// Moves every other bit to half its place.
fn gather(bits: u64) -> u32 {
    let mut gathered = bits & Y_BITS;
    for (at, (shift, _)) in STEPS.into_iter().enumerate() {
        let mask = STEPS.get(at + 1).map_or(0xffff_ffff, |(_, mask)| *mask);
        gathered = (gathered | gathered >> shift) & mask;
    }
    gathered as u32
}

/// How far groups of bits move, and where they are before.
const STEPS: [(u32, u64); 5] = [
    (1, 0x5555_5555_5555_5555),
    (2, 0x3333_3333_3333_3333),
    (4, 0x0f0f_0f0f_0f0f_0f0f),
    (8, 0x00ff_00ff_00ff_00ff),
    (16, 0x0000_ffff_0000_ffff),
];

/// The conversion of a C compiler for x86-64, where the standard leaves it undefined: any number can be a score.
fn to_u64(score: f64) -> u64 {
    const LIMIT: f64 = (1_u64 << 63) as f64;
    let truncate = |value: f64| {
        if (-LIMIT..LIMIT).contains(&value) {
            value as i64 as u64
        } else {
            i64::MIN as u64
        }
    };
    if score >= LIMIT {
        truncate(score - LIMIT) ^ 1 << 63
    } else {
        truncate(score)
    }
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;

    use super::*;

    #[test]
    fn bits_spread_and_gather() {
        let mut random = Random::for_test();
        for _ in 0..1000 {
            let bits = random.number() as u32;
            let spread = spread(bits);
            assert_eq!(gather(spread), bits);
            assert_eq!(gather(spread | random.number() << 1 & X_BITS), bits);
            assert!((0..32).all(|at| spread >> (2 * at) & 3 == u64::from(bits >> at & 1)));
        }
    }

    #[test]
    fn a_position_is_within_its_cell_and_near_the_middle_of_the_smallest() {
        let mut random = Random::for_test();
        let mut within = |max: f64| (random.number() as f64 / u64::MAX as f64 * 2.0 - 1.0) * max;
        for _ in 0..1000 {
            let position = Position::new(within(LONGITUDE_MAX), within(LATITUDE_MAX));
            let position = position.expect("valid");
            for step in 1..=STEP_MAX {
                let area = position.cell(step).area();
                assert!((area.longitude.0..=area.longitude.1).contains(&position.longitude));
                assert!((area.latitude.0..=area.latitude.1).contains(&position.latitude));
            }
            let read = Position::of_score(position.score());
            assert!((read.longitude - position.longitude).abs() < 1e-5);
            assert!((read.latitude - position.latitude).abs() < 1e-5);
        }
    }

    #[test]
    fn neighbours_share_a_border_and_go_round_the_globe() {
        let cell = Position::new(13.4, 52.5).expect("valid").cell(8);
        let (here, east, north) = (
            cell.area(),
            cell.neighbour(1, 0).area(),
            cell.neighbour(0, 1).area(),
        );
        assert_eq!(here.longitude.1, east.longitude.0);
        assert_eq!(here.latitude, east.latitude);
        assert_eq!(here.latitude.1, north.latitude.0);
        assert_eq!(cell.neighbour(1, -1).neighbour(-1, 1), cell);
        let edge = Position::new(179.999, 0.0).expect("valid").cell(8);
        assert_eq!(edge.neighbour(1, 0).area().longitude.0, -LONGITUDE_MAX);
    }

    #[test]
    fn known_places_have_their_published_geohashes() {
        let of = |longitude, latitude| {
            let score = Position::new(longitude, latitude).expect("valid").score();
            let geohash = Position::of_score(score).geohash();
            String::from_utf8(geohash.to_vec()).expect("ASCII")
        };
        // From Redis's documentation of GEOHASH.
        assert_eq!(of(13.361389, 38.115556), "sqc8b49rny0");
        assert_eq!(of(15.087269, 37.502669), "sqdtr74hyu0");
    }

    #[test]
    fn any_score_is_a_position() {
        for score in [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -1.0,
            1e300,
            -0.5,
            1e19,
        ] {
            let position = Position::of_score(score);
            assert!(Position::new(position.longitude, position.latitude).is_some());
        }
        assert_eq!(to_u64(-1.0), u64::MAX);
        assert_eq!(to_u64(18_446_744_073_709_551_615.0), 0);
        assert_eq!(to_u64(1e19), 10_000_000_000_000_000_000);
    }
}
