//! Reduces a failing sequence to the items that matter.

/// Drops items while `fails` holds for the rest, large pieces first.
///
/// Returns a sequence that fails and from which no single item can be dropped, unless `tries`
/// runs out before.
pub fn shrink<T: Clone>(
    items: &[T],
    mut tries: usize,
    mut fails: impl FnMut(&[T]) -> bool,
) -> Vec<T> {
    let mut kept = items.to_vec();
    let mut piece = kept.len().div_ceil(2);
    while piece > 0 {
        let mut first = 0;
        let mut dropped = false;
        while first < kept.len() && tries > 0 {
            tries -= 1;
            let end = (first + piece).min(kept.len());
            let rest = [&kept[..first], &kept[end..]].concat();
            if !rest.is_empty() && fails(&rest) {
                kept = rest;
                dropped = true;
            } else {
                first = end;
            }
        }
        if piece > 1 || !dropped {
            piece /= 2;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_items_that_matter_stay() {
        let items: Vec<u32> = (0..100).collect();
        let fails = |rest: &[u32]| rest.contains(&17) && rest.contains(&71);
        assert_eq!(shrink(&items, 1000, fails), [17, 71]);
    }

    #[test]
    fn the_number_of_tries_is_limited() {
        let mut calls = 0;
        let kept = shrink(&[1, 2, 3, 4], 2, |_| {
            calls += 1;
            false
        });
        assert_eq!((kept.len(), calls), (4, 2));
    }
}
