//! Compares the stream with ordered maps.

use super::Source;
use damselfly_collections::Stream;
use damselfly_collections::stream::{
    Exactness, Group, NodeLimits, Pending, StreamEntry, StreamId, Trim,
};
use std::collections::{BTreeMap, BTreeSet};

/// More entries would only slow down the checks.
const ENTRIES_MAX: usize = 300;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Clone, Default)]
struct ModelGroup {
    consumers: BTreeSet<Vec<u8>>,
    pending: BTreeMap<StreamId, (Vec<u8>, u64)>,
}

#[derive(Clone, Default)]
struct Model {
    entries: BTreeMap<StreamId, Pairs>,
    last_id: StreamId,
    added: u64,
    groups: BTreeMap<Vec<u8>, ModelGroup>,
}

/// Makes the same edits, chosen by `data`, to a stream and a model, and compares them.
pub fn edit(data: &[u8]) {
    let mut source = Source(data);
    let (mut stream, mut model) = (Stream::default(), Model::default());
    let mut copy = (stream.clone(), model.clone());
    while !source.0.is_empty() {
        step(&mut source, &mut stream, &mut model);
        stream.check();
        if source.below(8) == 0 {
            check(&stream, &model, &mut source);
            // A copy must stay unchanged, whatever happens to the original.
            check(&copy.0, &copy.1, &mut source);
            copy = (stream.clone(), model.clone());
            if source.below(2) == 0 {
                std::mem::swap(&mut copy.0, &mut stream);
            }
        }
    }
    check(&stream, &model, &mut source);
    check(&copy.0, &copy.1, &mut source);
}

fn step(source: &mut Source<'_>, stream: &mut Stream, model: &mut Model) {
    match source.byte() % 12 {
        0..5 => add(source, stream, model),
        5 | 6 => {
            let id = any_id(source, model);
            assert_eq!(stream.remove(id), model.entries.remove(&id).is_some());
        }
        7 => trim(source, stream, model),
        8 => {
            let name = group_name(source);
            let is_new = !model.groups.contains_key(&name);
            assert_eq!(stream.add_group(&name, StreamId::MIN, None), is_new);
            model.groups.entry(name).or_default();
        }
        9 if source.below(4) == 0 => {
            let name = group_name(source);
            let was_there = model.groups.remove(&name).is_some();
            assert_eq!(stream.remove_group(&name), was_there);
        }
        _ => change_group(source, stream, model),
    }
}

fn add(source: &mut Source<'_>, stream: &mut Stream, model: &mut Model) {
    let entries_max = [0, 1, 2, 7, 100][source.below(5)];
    let bytes_max = [0, 1, 64, 4096][source.below(4)];
    let limits = NodeLimits {
        bytes_max,
        entries_max,
    };
    for _ in 0..=source.below(6) {
        let last = model.last_id;
        let next = last.next();
        let far = StreamId::new(last.ms.saturating_add(1 << source.below(64)), 7);
        let Some(id) = [next, next, Some(far)][source.below(3)].filter(|&id| id > last) else {
            return;
        };
        let same_names = source.below(3) > 0;
        let pairs: Pairs = (0..=source.below(3))
            .map(|index| match same_names {
                true => (vec![b'a' + index as u8], source.text()),
                false => (source.text(), source.text()),
            })
            .collect();
        let view = pairs.iter().map(|(name, value)| (&name[..], &value[..]));
        stream.push(id, view, limits);
        model.entries.insert(id, pairs);
        model.last_id = id;
        model.added += 1;
    }
    if model.entries.len() > ENTRIES_MAX {
        let removed = stream.trim(Trim::Length(10), Exactness::Exact);
        remove_first(model, removed);
        assert_eq!(model.entries.len(), 10);
    }
}

fn remove_first(model: &mut Model, removed: u64) {
    for _ in 0..removed {
        model.entries.pop_first();
    }
}

fn trim(source: &mut Source<'_>, stream: &mut Stream, model: &mut Model) {
    let by = match source.below(2) {
        0 => Trim::Length(source.below(model.entries.len() + 2) as u64),
        _ => Trim::Ids(any_id(source, model)),
    };
    let exactness = match source.below(3) {
        0 => Exactness::Nodes(source.below(20) as u64),
        _ => Exactness::Exact,
    };
    let wanted = match by {
        Trim::Length(max) => (model.entries.len() as u64).saturating_sub(max),
        Trim::Ids(min) => model.entries.range(..min).count() as u64,
    };
    let removed = stream.trim(by, exactness);
    match exactness {
        Exactness::Exact => assert_eq!(removed, wanted),
        Exactness::Nodes(0) => assert!(removed <= wanted),
        Exactness::Nodes(limit) => assert!(removed <= wanted.min(limit)),
    }
    remove_first(model, removed);
}

fn change_group(source: &mut Source<'_>, stream: &mut Stream, model: &mut Model) {
    let (name, consumer) = (group_name(source), vec![b'A' + source.byte() % 4]);
    let id = any_id(source, model);
    let Some(of_model) = model.groups.get_mut(&name) else {
        assert!(stream.change_group(&name, |_| ()).is_none());
        return;
    };
    let changed = match source.byte() % 4 {
        0 | 1 => stream.change_group(&name, |group| {
            deliver(group, id, &consumer);
            of_model.consumers.insert(consumer.clone());
            let deliveries = of_model.pending.get(&id).map_or(0, |pending| pending.1);
            of_model.pending.insert(id, (consumer, deliveries + 1));
        }),
        2 => stream.change_group(&name, |group| {
            let was_there = of_model.pending.remove(&id).is_some();
            assert_eq!(group.acknowledge(id), was_there);
        }),
        _ => stream.change_group(&name, |group| {
            let was_there = of_model.consumers.remove(&consumer);
            let before = of_model.pending.len();
            of_model.pending.retain(|_, pending| pending.0 != consumer);
            let removed = was_there.then(|| before - of_model.pending.len());
            assert_eq!(group.remove_consumer(&consumer), removed);
        }),
    };
    assert!(changed.is_some());
}

fn deliver(group: &mut Group, id: StreamId, consumer: &[u8]) {
    let found = group.find_consumer(consumer);
    let consumer = found.or_else(|| group.add_consumer(consumer, 0));
    let before = group
        .pending()
        .get(&id)
        .map_or(0, |before| before.deliveries);
    let pending = Pending {
        consumer: consumer.expect("it exists or could be added"),
        delivered_ms: 0,
        deliveries: before + 1,
    };
    group.record_delivery(id, pending);
}

fn group_name(source: &mut Source<'_>) -> Vec<u8> {
    vec![b'g'; source.below(3)]
}

/// The id of an entry, an id next to it, or the lowest or highest id.
fn any_id(source: &mut Source<'_>, model: &Model) -> StreamId {
    let ids: Vec<_> = model.entries.keys().copied().collect();
    let id = match ids.len() {
        0 => model.last_id,
        len => ids[source.below(len)],
    };
    let other = match source.byte() % 8 {
        0 => id.next(),
        1 => id.previous(),
        2 => Some(StreamId::MIN),
        3 => Some(StreamId::MAX),
        _ => Some(id),
    };
    other.unwrap_or(id)
}

fn plain(entry: StreamEntry<'_>) -> (StreamId, Pairs) {
    let pairs = entry.pairs();
    let pairs = pairs.map(|(name, value)| (name.to_vec(), value.to_vec()));
    (entry.id, pairs.collect())
}

fn check(stream: &Stream, model: &Model, source: &mut Source<'_>) {
    let entries = &model.entries;
    assert_eq!(stream.len(), entries.len());
    assert_eq!(stream.last_id(), model.last_id);
    assert_eq!(stream.added(), model.added);
    let first = entries.keys().next().copied();
    assert_eq!(stream.first_id(), first.unwrap_or(StreamId::MIN));
    assert_eq!(stream.last_entry_id(), entries.keys().last().copied());
    let ids = [any_id(source, model), any_id(source, model)];
    for [start, end] in [[StreamId::MIN, StreamId::MAX], ids] {
        let forward: Vec<_> = stream.walk(start, end).map(plain).collect();
        let mut backward: Vec<_> = stream.walk(start, end).rev().map(plain).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        let wanted = entries.iter().filter(|(id, _)| (start..=end).contains(*id));
        let wanted: Vec<_> = wanted.map(|(id, pairs)| (*id, pairs.clone())).collect();
        assert_eq!(forward, wanted);
        let max = source.below(entries.len() + 2);
        assert_eq!(stream.count(start, end, max), wanted.len().min(max));
    }
    let found = stream.get(ids[0]).map(plain);
    let wanted = entries.get(&ids[0]).map(|pairs| (ids[0], pairs.clone()));
    assert_eq!(found, wanted);
    check_groups(stream, model);
}

fn check_groups(stream: &Stream, model: &Model) {
    assert_eq!(stream.groups().len(), model.groups.len());
    for ((name, group), (of_name, of_model)) in stream.groups().zip(&model.groups) {
        assert_eq!(name, of_name);
        let consumers = group.consumers().map(|(_, consumer)| consumer.name());
        assert!(consumers.eq(of_model.consumers.iter().map(|name| &name[..])));
        let owner = |pending: &Pending| group.consumer(pending.consumer).name().to_vec();
        let pending = group.pending().iter();
        let pending = pending.map(|(id, pending)| (*id, (owner(pending), pending.deliveries)));
        assert_eq!(pending.collect::<BTreeMap<_, _>>(), of_model.pending);
        for (index, consumer) in group.consumers() {
            let all = group.pending().iter();
            let own = all.filter(|(_, pending)| pending.consumer == index);
            assert!(consumer.pending().iter().eq(own.map(|(id, _)| id)));
        }
    }
}
