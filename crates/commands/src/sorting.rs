//! The sorting of SORT, independent of the keys that the elements come from.
//!
//! ```text
//! elements | 7 | 10 | 9 | ...      texts, in one block of memory
//! weights  | b | a  | - | ...      compared instead of the elements (BY)
//! answers  | x | y  | z | ...      returned instead of the elements (GET): `width` texts for each row
//! rows     | rank, index, place |  the records that sorting moves: 24 bytes for each element
//! ```

use std::cmp::Ordering;
use std::ops::Range;

use damselfly_base::CommandError;
use damselfly_base::double::parse_in_range;
use damselfly_protocol::Reply;

use crate::{Result, SlicedReply, long};

/// The number of rows to write at once.
const ROWS_AT_ONCE: usize = 64;

/// A list of texts in one buffer; texts may be absent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts {
    /// Each present text follows a marker byte, which distinguishes an empty text from an absent one.
    bytes: Vec<u8>,
    /// The end of each text.
    ends: Vec<usize>,
}

impl Texts {
    /// An empty list with room for the ends of `count` texts.
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

    /// Adds a text that consists of these parts.
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

    /// A text with its marker byte, or nothing if it is absent. In byte order, absent texts come first.
    fn marked(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }
}

/// How elements are compared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Order {
    pub(crate) descending: bool,
    /// Compares texts, not numbers.
    pub(crate) alpha: bool,
}

/// The record of an element.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Compared first: derived from a number, or from the beginning of a text.
    rank: u64,
    /// The index of the element.
    index: usize,
    /// The index of its group of texts in `answers`.
    place: usize,
}

/// The elements to sort, with their weights and answers.
#[derive(Debug)]
pub(crate) struct Sorting {
    order: Option<Order>,
    elements: Texts,
    /// Compared instead of the elements.
    weights: Option<Texts>,
    /// Returned instead of the elements.
    answers: Option<Texts>,
    /// The number of texts to return for each row.
    width: usize,
    rows: Vec<Row>,
    /// The range of sorted rows to return.
    shown: Range<usize>,
}

impl Sorting {
    /// Prepares to sort elements by `weights`, or else by themselves, and to return the rows in `shown`. Without an order the
    /// elements stay in their order.
    ///
    /// # Errors
    /// If numbers are compared and a text is not a number.
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
            // Elements whose weights are equal numbers are compared by themselves.
            weights: weights.filter(|_| order.is_some_and(|order| order.alpha)),
            answers: None,
            width: 1,
            rows,
            shown,
        })
    }

    /// Sets `answers`, the texts to return: `width` for each returned element. `look_up` is called once, with the elements and the
    /// indexes of those to return.
    pub(crate) fn answer(
        &mut self,
        width: usize,
        look_up: impl FnOnce(&Texts, &mut dyn Iterator<Item = usize>) -> Texts,
    ) {
        self.narrow();
        if !long::is_long(self.rows.len()) {
            // Sorted rows make the events of missing keys come in the order of the reply. Sorting many would hold locks too long.
            self.sort();
        }
        for (place, row) in self.rows.iter_mut().enumerate() {
            row.place = place;
        }
        let mut indexes = self.rows.iter().map(|row| row.index);
        self.answers = Some(look_up(&self.elements, &mut indexes));
        self.width = width;
    }

    /// Drops the rows that are not returned. The others are not sorted yet.
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

    /// Sorts the rows, and drops those that are not returned.
    fn sort(&mut self) {
        self.narrow();
        if let Some(order) = self.order {
            let compare = comparison(self.weights.as_ref().unwrap_or(&self.elements), order);
            self.rows.sort_unstable_by(compare);
        }
    }

    /// The texts to return for a row.
    fn texts(&self, row: Row) -> impl DoubleEndedIterator<Item = Option<&[u8]>> + Clone {
        let texts = self.answers.as_ref().unwrap_or(&self.elements);
        let start = row.place * self.width;
        (start..start + self.width).map(|at| texts.get(at))
    }

    /// All texts to return, in order.
    pub(crate) fn sorted(
        &mut self,
    ) -> impl DoubleEndedIterator<Item = Option<&[u8]>> + Clone + use<'_> {
        self.sort();
        let this = &*self;
        this.rows.iter().flat_map(|row| this.texts(*row))
    }

    /// The reply. Its first slice takes longer, since it sorts the rows.
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

/// Compares rows by their texts in `texts`. No two rows are equal: rows of the same text keep their order, in whichever
/// direction the others are sorted.
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

/// Maps a number that is not NaN to an integer of the same order. Both zeros are equal.
fn rank_of_number(number: f64) -> u64 {
    const SIGN: u64 = 1 << 63;
    let bits = (number + 0.0).to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// Maps a text to an integer made of its first bytes. A greater integer means a greater text.
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

    /// A random text, often one of a few, often a number.
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

    /// The expected reply, computed by a stable sort of copies.
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
    fn any_range_in_any_order_equals_a_stable_sort() {
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
                    assert_eq!(
                        answers.len(),
                        (end - start) * width,
                        "only returned elements are looked up"
                    );
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
    fn comparing_numbers_refuses_texts_that_are_not_numbers() {
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
    fn ranks_have_the_order_of_their_values() {
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
