//! What SORT sorts, apart from the keys that it comes from.
//!
//! ```text
//! elements | 7 | 10 | 9 | ...      texts, each of them in one block of memory
//! weights  | b | a  | - | ...      what is compared, if that is not the elements
//! answers  | x | y  | z | ...      what is shown, if that is not the elements: some for each row
//! rows     | rank, index, place |  what is moved: 24 bytes for each element
//! ```

use std::cmp::Ordering;
use std::ops::Range;

use damselfly_base::CommandError;
use damselfly_base::double::parse_in_range;
use damselfly_protocol::Reply;

use crate::{Result, SlicedReply, long};

/// Rows that are written at once.
const ROWS_AT_ONCE: usize = 64;

/// Texts one behind the other, some of them absent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts {
    /// Each text that is there behind a byte of its own, so that an empty one is told from an absent one.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Texts {
    /// None yet, with room for so many.
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(count),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Adds a text.
    pub(crate) fn push(&mut self, text: Option<&[u8]>) {
        match text {
            Some(text) => self.push_joined(&[text]),
            None => self.ends.push(self.bytes.len()),
        }
    }

    /// Adds a text that has these parts.
    pub(crate) fn push_joined(&mut self, parts: &[&[u8]]) {
        self.bytes.push(1);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.ends.push(self.bytes.len());
    }

    /// A text; `None` if it is absent.
    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        self.marked(index).get(1..)
    }

    /// A text behind its own byte, or nothing: in the order of these, those that are absent come first.
    fn marked(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }
}

/// What elements are compared by, and in which direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Order {
    pub(crate) descending: bool,
    /// By their text, not by their number.
    pub(crate) alpha: bool,
}

/// One element.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// What is compared first: a number, or the beginning of a text.
    rank: u64,
    /// The number of the element.
    index: usize,
    /// The number of its share in what is shown.
    place: usize,
}

/// Elements that are to be sorted, and what is known about them.
#[derive(Debug)]
pub(crate) struct Sorting {
    order: Option<Order>,
    elements: Texts,
    /// Compared instead of the elements.
    weights: Option<Texts>,
    /// Shown instead of the elements.
    answers: Option<Texts>,
    /// How many texts are shown for each row.
    width: usize,
    rows: Vec<Row>,
    /// Which rows of the sorted ones are shown.
    shown: Range<usize>,
}

impl Sorting {
    /// These elements, of which those in `shown` are wanted once they are sorted by `weights`, if there are any, or else by
    /// themselves. Without an order they stay as they are.
    ///
    /// # Errors
    /// If one is no number where numbers are compared.
    pub(crate) fn new(
        elements: Texts,
        weights: Option<Texts>,
        order: Option<Order>,
        shown: Range<usize>,
    ) -> Result<Self> {
        let mut rows = Vec::with_capacity(elements.len());
        let compared = weights.as_ref().unwrap_or(&elements);
        for index in 0..elements.len() {
            let rank = match order {
                None => 0,
                Some(Order { alpha: true, .. }) => rank_of_text(compared.marked(index)),
                Some(Order { alpha: false, .. }) => rank_of_number(
                    compared
                        .get(index)
                        .map_or(Some(0.0), parse_in_range)
                        .ok_or_else(|| {
                            CommandError::err("One or more scores can't be converted into double")
                        })?,
                ),
            };
            let place = index;
            rows.push(Row { rank, index, place });
        }
        Ok(Self {
            order,
            elements,
            // Those of the same number are compared by themselves.
            weights: weights.filter(|_| order.is_some_and(|order| order.alpha)),
            answers: None,
            width: 1,
            rows,
            shown,
        })
    }

    /// Makes `answers` the texts that are shown, `width` for each element that is. `look_up` is called once, with the elements
    /// and the numbers of those that are shown.
    pub(crate) fn answer(
        &mut self,
        width: usize,
        look_up: impl FnOnce(&Texts, &mut dyn Iterator<Item = usize>) -> Texts,
    ) {
        self.narrow();
        if !long::is_long(self.rows.len()) {
            // Events of keys that are missing come in the order of the reply, where that holds up nobody.
            self.sort();
        }
        for (place, row) in self.rows.iter_mut().enumerate() {
            row.place = place;
        }
        let mut indexes = self.rows.iter().map(|row| row.index);
        self.answers = Some(look_up(&self.elements, &mut indexes));
        self.width = width;
    }

    /// Drops the rows that are not shown. The others are in no order yet.
    fn narrow(&mut self) {
        let Range { start, end } = self.shown;
        if let Some(order) = self.order {
            let compare = comparison(self.weights.as_ref().unwrap_or(&self.elements), order);
            if end < self.rows.len() {
                self.rows.select_nth_unstable_by(end, &compare);
                self.rows.truncate(end);
            }
            if 0 < start && start < self.rows.len() {
                self.rows.select_nth_unstable_by(start, &compare);
            }
        }
        self.rows.truncate(end);
        self.rows.drain(..start);
        self.shown = 0..self.rows.len();
    }

    /// Leaves the rows that are shown, in order.
    fn sort(&mut self) {
        self.narrow();
        if let Some(order) = self.order {
            let compare = comparison(self.weights.as_ref().unwrap_or(&self.elements), order);
            self.rows.sort_unstable_by(compare);
        }
    }

    /// The texts that are shown for a row.
    fn texts(&self, row: Row) -> impl DoubleEndedIterator<Item = Option<&[u8]>> + Clone {
        let texts = self.answers.as_ref().unwrap_or(&self.elements);
        let start = row.place * self.width;
        (start..start + self.width).map(|at| texts.get(at))
    }

    /// All that is shown, in order.
    pub(crate) fn sorted(
        &mut self,
    ) -> impl DoubleEndedIterator<Item = Option<&[u8]>> + Clone + use<'_> {
        self.sort();
        let this = &*self;
        this.rows.iter().flat_map(|row| this.texts(*row))
    }

    /// The reply, which takes some time to begin.
    pub(crate) fn into_sliced_reply(mut self) -> SlicedReply {
        let mut next = None;
        SlicedReply::new(move |reply| {
            let start = next.unwrap_or_else(|| {
                self.sort();
                reply.array(self.rows.len() * self.width);
                0
            });
            let end = (start + ROWS_AT_ONCE).min(self.rows.len());
            self.write(start..end, reply);
            next = Some(end);
            end < self.rows.len()
        })
    }

    fn write(&self, rows: Range<usize>, reply: &mut Reply<'_>) {
        for text in self.rows[rows].iter().flat_map(|row| self.texts(*row)) {
            match text {
                Some(text) => reply.bulk(text),
                None => reply.null(),
            }
        }
    }
}

/// Compares rows by what they stand for in `texts`. No two are equal: those of the same text keep the order they had, in
/// whatever direction the others are sorted.
fn comparison(texts: &Texts, order: Order) -> impl Fn(&Row, &Row) -> Ordering {
    move |a, b| {
        let by_text = || texts.marked(a.index).cmp(texts.marked(b.index));
        let ordering = a.rank.cmp(&b.rank).then_with(by_text);
        let ordering = if order.descending {
            ordering.reverse()
        } else {
            ordering
        };
        ordering.then(a.index.cmp(&b.index))
    }
}

/// A number in the order of numbers, of which none is NaN. Both zeros are one.
fn rank_of_number(number: f64) -> u64 {
    const SIGN: u64 = 1 << 63;
    let bits = (number + 0.0).to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// The beginning of a text: greater only for greater ones.
fn rank_of_text(text: &[u8]) -> u64 {
    let mut beginning = [0; 8];
    for (to, from) in beginning.iter_mut().zip(text) {
        *to = *from;
    }
    u64::from_be_bytes(beginning)
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;
    use damselfly_protocol::Version;

    use super::*;

    fn texts_of<'a>(texts: impl IntoIterator<Item = Option<&'a [u8]>>) -> Texts {
        let mut all = Texts::default();
        texts.into_iter().for_each(|text| all.push(text));
        all
    }

    /// A text that is often one of few, and often a number.
    fn text(random: &mut Random) -> Vec<u8> {
        match random.below(4) {
            0 => (random.below(20) as i64 - 10).to_string().into_bytes(),
            1 => format!("{}.5", random.below(3)).into_bytes(),
            2 => {
                const ODD: [&str; 6] = ["0", "-0", "0.0", "+inf", "-inf", "1e300"];
                Vec::from(ODD[random.below(ODD.len())])
            }
            _ => format!("0000000{}", random.below(3)).into_bytes(),
        }
    }

    /// What is shown, found out by a stable sort over copies.
    fn model(
        elements: &[Vec<u8>],
        weights: Option<&[Option<Vec<u8>>]>,
        order: Option<Order>,
        shown: Range<usize>,
    ) -> Vec<usize> {
        let number = |index: &usize| {
            let text = match weights {
                Some(weights) => weights[*index].as_ref(),
                None => Some(&elements[*index]),
            };
            text.map_or(0.0, |text| {
                std::str::from_utf8(text).unwrap().parse().unwrap()
            })
        };
        let mut indexes: Vec<usize> = (0..elements.len()).collect();
        if let Some(order) = order {
            indexes.sort_by(|a, b| {
                let ordering = match (order.alpha, weights) {
                    (true, Some(weights)) => weights[*a].cmp(&weights[*b]),
                    (true, None) => elements[*a].cmp(&elements[*b]),
                    (false, _) => {
                        let by_number = number(a).partial_cmp(&number(b)).unwrap();
                        by_number.then_with(|| elements[*a].cmp(&elements[*b]))
                    }
                };
                match order.descending {
                    true => ordering.reverse(),
                    false => ordering,
                }
            });
        }
        indexes[shown].to_vec()
    }

    #[test]
    fn any_part_in_any_order_is_that_of_a_stable_sort() {
        let mut random = Random::for_test();
        for _ in 0..3000 {
            let len = random.below(40);
            let elements: Vec<Vec<u8>> = (0..len).map(|_| text(&mut random)).collect();
            let weights: Vec<Option<Vec<u8>>> = (0..len)
                .map(|_| (random.below(4) > 0).then(|| text(&mut random)))
                .collect();
            let weights = (random.below(2) > 0).then_some(&weights[..]);
            let order = (random.below(8) > 0).then(|| Order {
                descending: random.below(2) > 0,
                alpha: random.below(2) > 0,
            });
            let start = random.below(len + 1);
            let end = start + random.below(len - start + 1);
            let width = random.below(4);

            let owned = weights.map(|all| texts_of(all.iter().map(Option::as_deref)));
            let all = texts_of(elements.iter().map(|text| Some(&text[..])));
            let mut sorting = Sorting::new(all, owned, order, start..end).unwrap();
            let answer =
                |index: usize, at: usize| (at != 1).then(|| format!("{index} {at}").into_bytes());
            if width > 0 {
                sorting.answer(width, |_, indexes| {
                    let mut answers = Texts::default();
                    for index in indexes {
                        (0..width).for_each(|at| answers.push(answer(index, at).as_deref()));
                    }
                    assert_eq!(answers.len(), (end - start) * width, "only what is shown");
                    answers
                });
            }
            let expected: Vec<Option<Vec<u8>>> = model(&elements, weights, order, start..end)
                .into_iter()
                .flat_map(|index| match width {
                    0 => vec![Some(elements[index].clone())],
                    _ => (0..width).map(|at| answer(index, at)).collect(),
                })
                .collect();
            let seen: Vec<_> = sorting
                .sorted()
                .map(|text| text.map(<[u8]>::to_vec))
                .collect();
            let case = || format!("{elements:?} {weights:?} {order:?} {start}..{end}");
            assert_eq!(seen, expected, "{}", case());

            let (mut written, mut wanted) = (Vec::new(), Vec::new());
            let mut reply = Reply::new(&mut written, Version::Resp2);
            sorting.into_sliced_reply().write_all(&mut reply);
            let mut reply = Reply::new(&mut wanted, Version::Resp2);
            reply.array(expected.len());
            for text in &expected {
                match text {
                    Some(text) => reply.bulk(text),
                    None => reply.null(),
                }
            }
            assert_eq!(written, wanted, "{}", case());
        }
    }

    #[test]
    fn what_is_no_number_is_refused_where_numbers_are_compared() {
        let elements = || texts_of([Some(&b"1"[..]), Some(b"x")]);
        let (numbers, texts) = (
            Some(Order::default()),
            Some(Order {
                alpha: true,
                descending: false,
            }),
        );
        assert!(Sorting::new(elements(), None, numbers, 0..2).is_err());
        assert!(Sorting::new(elements(), None, texts, 0..2).is_ok());
        assert!(Sorting::new(elements(), None, None, 0..2).is_ok());
        let weights = Some(texts_of([None, Some(&b"2"[..])]));
        assert!(Sorting::new(elements(), weights, numbers, 0..2).is_ok());
    }

    #[test]
    fn ranks_are_in_the_order_of_what_they_stand_for() {
        let numbers = [
            f64::NEG_INFINITY,
            -1e300,
            -1.5,
            -1.0,
            0.0,
            1e-300,
            1.0,
            2.0,
            f64::INFINITY,
        ];
        assert!(numbers.is_sorted_by_key(|number| rank_of_number(*number)));
        assert!(
            numbers
                .windows(2)
                .all(|two| rank_of_number(two[0]) < rank_of_number(two[1]))
        );
        assert_eq!(rank_of_number(-0.0), rank_of_number(0.0));
        let texts = [
            &b""[..],
            b"\0",
            b"\0\0",
            b"a",
            b"a\0",
            b"aa",
            b"aaaaaaaaaa",
            b"b",
            b"\xff",
        ];
        assert!(texts.is_sorted_by_key(|text| rank_of_text(text)));
    }
}
