//! An ordered map of which many versions live at a time: a clone is one pointer, a change copies one small piece.
//!
//! Two levels: a list of pieces, each a sorted list of at most [`PIECE_MAX`] entries. A change copies the list of
//! pieces (pointers) and one piece. Two versions are compared piece by piece: what both share is one comparison of
//! pointers.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Entries of a piece; one more, and it becomes two.
const PIECE_MAX: usize = 128;

type Piece<K, V> = Vec<(K, V)>;

/// See the [module](self).
///
/// Invariant: no piece is empty; keys ascend in each piece and from piece to piece.
pub(super) struct CowMap<K, V> {
    pieces: Arc<Vec<Arc<Piece<K, V>>>>,
    len: usize,
}

/// An entry of two versions of a map that differs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changed<'a, V> {
    pub(super) before: Option<&'a V>,
    pub(super) after: Option<&'a V>,
}

impl<K, V> Clone for CowMap<K, V> {
    fn clone(&self) -> Self {
        Self { pieces: self.pieces.clone(), len: self.len }
    }
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        Self { pieces: Arc::default(), len: 0 }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for CowMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.pieces.iter().flat_map(|p| p.iter()).map(|(k, v)| (k, v))).finish()
    }
}

/// Equal contents; how they are cut into pieces does not matter.
impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for CowMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone, V: Clone + Eq> Eq for CowMap<K, V> {}

impl<K: Ord + Clone, V: Clone> CowMap<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The piece that holds `key`, or would.
    fn piece_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.pieces.partition_point(|p| p[0].0.borrow() <= key).saturating_sub(1)
    }

    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(usize, usize)>
    where
        K: Borrow<Q>,
    {
        let piece = self.piece_of(key);
        let at = self.pieces.get(piece)?.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        Some((piece, at))
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.find(key).map(|(piece, at)| &self.pieces[piece][at].1)
    }

    pub(super) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_some()
    }

    /// The value to be changed, in this version only.
    pub(super) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (piece, at) = self.find(key)?;
        Some(&mut Arc::make_mut(&mut Arc::make_mut(&mut self.pieces)[piece])[at].1)
    }

    /// Gives the value that was there.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.piece_of(&key);
        let pieces = Arc::make_mut(&mut self.pieces);
        if pieces.is_empty() {
            pieces.push(Arc::default());
        }
        let piece = Arc::make_mut(&mut pieces[index]);
        let at = match piece.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => return Some(std::mem::replace(&mut piece[at].1, value)),
            Err(at) => at,
        };
        piece.insert(at, (key, value));
        self.len += 1;
        if piece.len() > PIECE_MAX {
            let upper = piece.split_off(PIECE_MAX / 2);
            pieces.insert(index + 1, Arc::new(upper));
        }
        None
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (index, at) = self.find(key)?;
        let pieces = Arc::make_mut(&mut self.pieces);
        let (_, value) = Arc::make_mut(&mut pieces[index]).remove(at);
        if pieces[index].is_empty() {
            pieces.remove(index);
        }
        self.len -= 1;
        Some(value)
    }

    /// In the order of keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.pieces.iter().flat_map(|piece| piece.iter()).map(|(k, v)| (k, v))
    }

    /// What differs from `before` to `after`, in the order of keys; `same` says whether a value did not change.
    pub(super) fn changes<'a>(before: &'a Self, after: &'a Self, same: impl Fn(&V, &V) -> bool) -> Vec<Changed<'a, V>> {
        let mut changes = Vec::new();
        let (mut old, mut new) = (Cursor::new(before), Cursor::new(after));
        loop {
            if old.skips_with(&new) {
                old.next_piece();
                new.next_piece();
                continue;
            }
            match (old.entry(), new.entry()) {
                (None, None) => return changes,
                (Some((k, b)), Some((l, a))) if k == l => {
                    if !same(b, a) {
                        changes.push(Changed { before: Some(b), after: Some(a) });
                    }
                    old.next();
                    new.next();
                }
                (Some((k, b)), other) if other.is_none_or(|(l, _)| k < l) => {
                    changes.push(Changed { before: Some(b), after: None });
                    old.next();
                }
                (_, Some((_, a))) => {
                    changes.push(Changed { before: None, after: Some(a) });
                    new.next();
                }
                (Some(_), None) => unreachable!("the arm before takes what only the old map has left"),
            }
        }
    }
}

/// A place in a map.
struct Cursor<'a, K, V> {
    pieces: &'a [Arc<Piece<K, V>>],
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(map: &'a CowMap<K, V>) -> Self {
        Self { pieces: &map.pieces, at: 0 }
    }

    fn entry(&self) -> Option<(&'a K, &'a V)> {
        self.pieces.first().map(|piece| (&piece[self.at].0, &piece[self.at].1))
    }

    fn next(&mut self) {
        self.at += 1;
        if self.at == self.pieces[0].len() {
            self.next_piece();
        }
    }

    fn next_piece(&mut self) {
        (self.pieces, self.at) = (&self.pieces[1..], 0);
    }

    /// True if both are at the beginning of the same piece.
    fn skips_with(&self, other: &Self) -> bool {
        let both = self.pieces.first().zip(other.pieces.first());
        self.at == 0 && other.at == 0 && both.is_some_and(|(a, b)| Arc::ptr_eq(a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u16, u32),
        Change(u16, u32),
        Remove(u16),
        /// Keeps this version, to be compared with the last.
        Keep,
    }

    fn op() -> impl Strategy<Value = Op> {
        let key = || 0..700_u16;
        prop_oneof![
            6 => (key(), any::<u32>()).prop_map(|(k, v)| Op::Insert(k, v)),
            1 => (key(), any::<u32>()).prop_map(|(k, v)| Op::Change(k, v)),
            3 => key().prop_map(Op::Remove),
            1 => Just(Op::Keep),
        ]
    }

    fn check(map: &CowMap<u16, u32>, model: &BTreeMap<u16, u32>) {
        assert!(map.iter().eq(model.iter()));
        assert_eq!(map.len(), model.len());
        assert!(map.pieces.iter().all(|p| !p.is_empty() && p.len() <= PIECE_MAX));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn it_is_a_map_and_older_versions_stay(ops in prop::collection::vec(op(), 0..1500)) {
            let (mut map, mut model) = (CowMap::default(), BTreeMap::new());
            let mut kept = Vec::new();
            for op in ops {
                match op {
                    Op::Insert(k, v) => prop_assert_eq!(map.insert(k, v), model.insert(k, v)),
                    Op::Change(k, v) => {
                        prop_assert_eq!(map.get_mut(&k).map(|x| *x = v), model.get_mut(&k).map(|x| *x = v));
                    }
                    Op::Remove(k) => prop_assert_eq!(map.remove(&k), model.remove(&k)),
                    Op::Keep => kept.push((map.clone(), model.clone())),
                }
            }
            check(&map, &model);
            for k in 0..700 {
                prop_assert_eq!(map.get(&k), model.get(&k));
                prop_assert_eq!(map.contains_key(&k), model.contains_key(&k));
            }
            for (old, old_model) in &kept {
                check(old, old_model);
                let found = CowMap::changes(old, &map, |a, b| a == b);
                let keys: std::collections::BTreeSet<_> = old_model.keys().chain(model.keys()).collect();
                let expected: Vec<_> = keys
                    .into_iter()
                    .map(|k| Changed { before: old_model.get(k), after: model.get(k) })
                    .filter(|c| c.before != c.after)
                    .collect();
                prop_assert_eq!(found, expected);
                prop_assert_eq!(old == &map, old_model == &model);
            }
        }
    }

    #[test]
    fn what_two_versions_share_is_not_looked_at() {
        let mut old = CowMap::default();
        for k in 0..10_000 {
            old.insert(k, k);
        }
        let mut new = old.clone();
        new.insert(5000, 7);
        let looked = std::cell::Cell::new(0);
        let same = |a: &i32, b: &i32| {
            looked.set(looked.get() + 1);
            a == b
        };
        assert_eq!(CowMap::changes(&old, &new, same), [Changed { before: Some(&5000), after: Some(&7) }]);
        assert!(looked.get() <= PIECE_MAX, "{} entries", looked.get());
    }
}
