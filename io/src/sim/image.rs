//! What is in a file: the bytes a process reads, the bytes that are durable, and all between that a crash decides.

use super::rng::SimRng;
use crate::BLOCK;
use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// The unit a device writes whole.
pub(super) const SECTOR: usize = 512;
const SECTORS: usize = BLOCK / SECTOR;
const ZEROS: [u8; BLOCK] = [0; BLOCK];
const _: () = assert!(SECTORS == 8, "a mask of sectors is a byte");

type PageBytes = Rc<[u8; BLOCK]>;

/// A page of a write.
#[derive(Clone, Debug)]
pub(super) enum Page {
    /// All zero: needs no memory.
    Zero,
    Data(PageBytes),
    /// Overwritten by a later write that became durable before this one.
    Gone,
}

/// A sparse file: a page that is not there is zero.
#[derive(Clone, Debug, Default)]
struct Image {
    pages: BTreeMap<u64, PageBytes>,
    size: u64,
}

impl Image {
    fn page(&self, index: u64) -> &[u8; BLOCK] {
        self.pages.get(&index).map_or(&ZEROS, |p| p)
    }

    fn put(&mut self, index: u64, page: &Page) {
        match page {
            Page::Zero => drop(self.pages.remove(&index)),
            Page::Data(bytes) => drop(self.pages.insert(index, bytes.clone())),
            Page::Gone => {}
        }
    }

    /// The page as it is after the sectors of `mask` were written.
    fn merged(&self, index: u64, page: &Page, mask: u8) -> Page {
        let new = match page {
            Page::Gone => return Page::Gone,
            Page::Zero => &ZEROS,
            Page::Data(bytes) => bytes.as_ref(),
        };
        if mask == u8::MAX {
            return page.clone();
        }
        let mut bytes = *self.page(index);
        for sector in (0..SECTORS).filter(|s| mask & (1 << s) != 0) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            bytes[range.clone()].copy_from_slice(&new[range]);
        }
        if bytes == ZEROS { Page::Zero } else { Page::Data(Rc::new(bytes)) }
    }

    fn truncate(&mut self, size: u64) {
        self.size = size;
        let block = BLOCK as u64;
        drop(self.pages.split_off(&size.div_ceil(block)));
        let tail = (size % block) as usize;
        if tail != 0
            && let Some(page) = self.pages.get_mut(&(size / block))
        {
            Rc::make_mut(page)[tail..].fill(0);
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { first, pages } => {
                for (index, page) in (*first..).zip(pages) {
                    self.put(index, page);
                }
                self.size = self.size.max((first + pages.len() as u64) * BLOCK as u64);
            }
            Change::Truncate { size } => self.truncate(*size),
            Change::Grow { size } => self.size = self.size.max(*size),
        }
    }

    fn read(&self, offset: u64, len: usize) -> Bytes {
        let len = len.min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let mut bytes = BytesMut::zeroed(len);
        if len == 0 {
            return bytes.freeze();
        }
        let block = BLOCK as u64;
        for (index, page) in self.pages.range(offset / block..(offset + len as u64).div_ceil(block)) {
            let start = index * block;
            let from = offset.max(start);
            let to = (offset + len as u64).min(start + block);
            bytes[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
        }
        bytes.freeze()
    }

    fn flip(&mut self, byte: u64, bit: u8) {
        let index = byte / BLOCK as u64;
        let mut bytes = *self.page(index);
        bytes[(byte % BLOCK as u64) as usize] ^= 1 << bit;
        self.pages.insert(index, Rc::new(bytes));
    }
}

/// A change of a file that is not yet durable.
#[derive(Clone, Debug)]
enum Change {
    /// Pages from page number `first`.
    Write {
        first: u64,
        pages: Vec<Page>,
    },
    Truncate {
        size: u64,
    },
    /// The size that a durable write has reached, itself not yet durable.
    Grow {
        size: u64,
    },
}

impl Change {
    /// The size after this change of a file of `size`.
    fn size_after(&self, size: u64) -> u64 {
        match self {
            Self::Write { first, pages } => size.max((first + pages.len() as u64) * BLOCK as u64),
            Self::Truncate { size } => *size,
            Self::Grow { size: grown } => size.max(*grown),
        }
    }
}

#[derive(Debug)]
struct Pending {
    sequence: u64,
    change: Change,
    /// A sync that covered it has failed: no later sync makes it durable.
    doubtful: bool,
}

/// Invariant: `current` is `durable` with the changes of `pending` applied in order, but for pages marked gone.
#[derive(Debug, Default)]
struct State {
    current: Image,
    durable: Image,
    pending: Vec<Pending>,
    next_sequence: u64,
    /// Submitted and without effect yet.
    in_flight: BTreeMap<u64, (u64, Vec<Page>)>,
    sync_failed: bool,
}

/// One file, named or not.
#[derive(Debug, Default)]
pub(super) struct FileImage(RefCell<State>);

impl FileImage {
    /// A file whose contents are durable.
    pub(super) fn with_contents(contents: &[u8]) -> Self {
        let file = Self::default();
        file.set_contents(contents);
        file.sync(u64::MAX);
        file
    }

    /// Replaces the contents; not durable.
    pub(super) fn set_contents(&self, contents: &[u8]) {
        let mut state = self.0.borrow_mut();
        state.change(Change::Truncate { size: 0 });
        if !contents.is_empty() {
            let mut padded = contents.to_vec();
            padded.resize(contents.len().next_multiple_of(BLOCK), 0);
            state.change(Change::Write { first: 0, pages: pages_of(&[Bytes::from(padded)]) });
            state.change(Change::Truncate { size: contents.len() as u64 });
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.0.borrow().current.size
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Bytes {
        self.0.borrow().current.read(offset, len)
    }

    pub(super) fn sync_failed(&self) -> bool {
        self.0.borrow().sync_failed
    }

    /// A write is under way: until it takes effect, a crash may leave any of its sectors.
    pub(super) fn begin_write(&self, id: u64, first: u64, pages: Vec<Page>) {
        self.0.borrow_mut().in_flight.insert(id, (first, pages));
    }

    /// The write takes effect.
    pub(super) fn finish_write(&self, id: u64, dsync: bool) {
        let mut state = self.0.borrow_mut();
        let Some((first, pages)) = state.in_flight.remove(&id) else { return };
        if dsync {
            state.write_durably(first, pages);
        } else {
            state.change(Change::Write { first, pages });
        }
    }

    /// The write fails: any of its first `pages_max` pages' sectors may have got there.
    pub(super) fn fail_write(&self, id: u64, pages_max: usize, rng: &SimRng) {
        let mut state = self.0.borrow_mut();
        let Some((first, mut pages)) = state.in_flight.remove(&id) else { return };
        pages.truncate(rng.index(pages_max.min(pages.len()) + 1));
        if !pages.is_empty() {
            state.tear(first, pages, rng);
        }
    }

    pub(super) fn truncate(&self, size: u64) {
        self.0.borrow_mut().change(Change::Truncate { size });
    }

    /// What a sync that starts now covers: pass it to [`FileImage::sync`] or [`FileImage::fail_sync`].
    pub(super) fn sync_point(&self) -> u64 {
        self.0.borrow().next_sequence
    }

    /// All changes before `point` are durable, but for those that a failed sync has covered.
    pub(super) fn sync(&self, point: u64) {
        self.0.borrow_mut().settle(|p| p.sequence < point && !p.doubtful);
    }

    /// Nothing is known of the changes before `point` any more.
    pub(super) fn fail_sync(&self, point: u64) {
        let mut state = self.0.borrow_mut();
        state.sync_failed = true;
        state.pending.iter_mut().filter(|p| p.sequence < point).for_each(|p| p.doubtful = true);
    }

    /// As [`FileImage::fail_sync`], if there was anything to sync: of a sync of many files.
    pub(super) fn fail_shared_sync(&self, point: u64) {
        let dirty = self.0.borrow().pending.iter().any(|p| p.sequence < point);
        if dirty {
            self.fail_sync(point);
        }
    }

    /// The machine loses power.
    pub(super) fn lose_power(&self, rng: &SimRng) {
        self.0.borrow_mut().lose_power(rng);
    }

    /// The process dies, the machine lives.
    pub(super) fn kill(&self, rng: &SimRng) {
        let mut state = self.0.borrow_mut();
        for (_, (first, pages)) in std::mem::take(&mut state.in_flight) {
            state.tear(first, pages, rng);
        }
        state.sync_failed = false;
    }

    pub(super) fn flip_bit(&self, range: Range<u64>, rng: &SimRng) -> bool {
        let mut state = self.0.borrow_mut();
        let end = range.end.min(state.current.size);
        if range.start >= end {
            return false;
        }
        let (byte, bit) = (range.start + rng.below(end - range.start), rng.below(8) as u8);
        state.current.flip(byte, bit);
        if byte < state.durable.size {
            state.durable.flip(byte, bit);
        }
        true
    }
}

impl State {
    fn change(&mut self, change: Change) {
        self.current.apply(&change);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.pending.push(Pending { sequence, change, doubtful: false });
    }

    /// Applies to the durable image, in order, those changes that `settled` picks, and the changes of the size before
    /// them: a file system commits those in order, so that one that a failed sync left in doubt is not when a later
    /// change is durable.
    fn settle(&mut self, settled: impl Fn(&Pending) -> bool) {
        let mut rest: Vec<Pending> = Vec::new();
        let last = self.pending.iter().rposition(&settled);
        for (n, pending) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let size_only = matches!(pending.change, Change::Truncate { .. } | Change::Grow { .. });
            if settled(&pending) || (size_only && last.is_some_and(|last| n < last)) {
                self.durable.apply(&pending.change);
                rest.iter_mut().for_each(|earlier| overwrite(&mut earlier.change, &pending.change));
            } else {
                rest.push(pending);
            }
        }
        self.pending = rest;
    }

    fn write_durably(&mut self, first: u64, pages: Vec<Page>) {
        // A truncation that is not durable would cut the write off again: the device commits it first.
        if let Some(last) = self.pending.iter().rposition(|p| matches!(p.change, Change::Truncate { .. })) {
            let point = self.pending[last].sequence;
            self.settle(|p| p.sequence <= point && !p.doubtful);
        }
        let write = Change::Write { first, pages };
        let size = write.size_after(self.current.size);
        self.current.apply(&write);
        self.pending.iter_mut().for_each(|earlier| overwrite(&mut earlier.change, &write));
        let durable_size = self.durable.size;
        self.durable.apply(&write);
        self.durable.size = durable_size;
        if size > durable_size {
            self.change(Change::Grow { size });
        }
    }

    /// A write of which any sectors got there, and with them the size or not.
    fn tear(&mut self, first: u64, pages: Vec<Page>, rng: &SimRng) {
        let (size, block) = (self.current.size, BLOCK as u64);
        let mut torn: Vec<Page> =
            (first..).zip(&pages).map(|(index, page)| self.current.merged(index, page, rng.next_u64() as u8)).collect();
        if rng.one_in(2) {
            torn.truncate(usize::try_from((size / block).saturating_sub(first)).unwrap_or(usize::MAX));
        }
        if !torn.is_empty() {
            self.change(Change::Write { first, pages: torn });
        }
    }

    fn lose_power(&mut self, rng: &SimRng) {
        for (_, (first, pages)) in std::mem::take(&mut self.in_flight) {
            let sequence = self.next_sequence;
            self.next_sequence += 1;
            self.pending.push(Pending { sequence, change: Change::Write { first, pages }, doubtful: true });
        }
        let mut image = std::mem::take(&mut self.durable);
        let pending = std::mem::take(&mut self.pending);
        let mut sizes_kept = rng.below(count_size_changes(image.size, &pending) + 1);
        let (mut size, mut lost_from) = (image.size, u64::MAX);
        for Pending { change, .. } in &pending {
            let size_after = change.size_after(size);
            let changes_size = size_after != size || matches!(change, Change::Truncate { .. });
            size = size_after;
            let keep_size = !changes_size || sizes_kept > 0;
            if changes_size {
                sizes_kept = sizes_kept.saturating_sub(1);
            }
            match change {
                Change::Write { first, pages } => {
                    keep_some_sectors(&mut image, *first, pages, lost_from, rng);
                    if keep_size {
                        image.size = image.size.max(size_after);
                    }
                }
                Change::Truncate { size } if keep_size => image.truncate(*size),
                // Blocks written after it were mapped anew, and the mapping is lost with it.
                Change::Truncate { size } => lost_from = lost_from.min(*size),
                Change::Grow { size } if keep_size => image.size = image.size.max(*size),
                Change::Grow { .. } => {}
            }
        }
        image.truncate(image.size);
        self.current = image.clone();
        self.durable = image;
        self.sync_failed = false;
    }
}

/// How many of the changes change the size, which must then be kept or lost in order.
fn count_size_changes(mut size: u64, pending: &[Pending]) -> u64 {
    let mut count = 0;
    for Pending { change, .. } in pending {
        let after = change.size_after(size);
        count += u64::from(after != size || matches!(change, Change::Truncate { .. }));
        size = after;
    }
    count
}

/// Applies none, all, a beginning, some pages or some sectors of a write, those before `lost_from` only.
fn keep_some_sectors(image: &mut Image, first: u64, pages: &[Page], lost_from: u64, rng: &SimRng) {
    let (mode, beginning) = (rng.below(5), rng.index(pages.len() * SECTORS + 1));
    for (n, page) in pages.iter().enumerate() {
        let mut mask = match mode {
            0 => 0,
            1 => u8::MAX,
            2 => ((1u32 << beginning.saturating_sub(n * SECTORS).min(SECTORS)) - 1) as u8,
            3 => rng.below(2) as u8 * u8::MAX,
            _ => rng.next_u64() as u8,
        };
        let index = first + n as u64;
        for sector in 0..SECTORS {
            if index * BLOCK as u64 + (sector * SECTOR) as u64 >= lost_from {
                mask &= !(1 << sector);
            }
        }
        if mask != 0 {
            let page = image.merged(index, page, mask);
            image.put(index, &page);
        }
    }
}

/// `later` is durable and `earlier` is not: where they overlap, `earlier` can do nothing any more.
fn overwrite(earlier: &mut Change, later: &Change) {
    let Change::Write { first, pages } = earlier else { return };
    if let Change::Truncate { size } = later {
        // Nor does it make the file longer again.
        let end = size / BLOCK as u64;
        pages.truncate(usize::try_from(end.saturating_sub(*first)).unwrap_or(usize::MAX));
        *first = (*first).min(end);
    }
    let gone = match later {
        Change::Write { first, pages } => *first..first + pages.len() as u64,
        Change::Truncate { size } => size / BLOCK as u64..u64::MAX,
        Change::Grow { .. } => return,
    };
    for (index, page) in (*first..).zip(pages) {
        if gone.contains(&index) {
            *page = Page::Gone;
        }
    }
}

/// The pages of a gathered write, whose length must be a multiple of the block.
pub(super) fn pages_of(parts: &[Bytes]) -> Vec<Page> {
    let total: usize = parts.iter().map(Bytes::len).sum();
    let mut pages = Vec::with_capacity(total / BLOCK);
    let mut parts = parts.iter().map(|p| &p[..]).filter(|p| !p.is_empty());
    let mut rest: &[u8] = &[];
    for _ in 0..total / BLOCK {
        let mut page = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            if rest.is_empty() {
                rest = parts.next().expect("the parts hold as many bytes as were counted");
            }
            let n = rest.len().min(BLOCK - filled);
            page[filled..filled + n].copy_from_slice(&rest[..n]);
            filled += n;
            rest = &rest[n..];
        }
        pages.push(if page == ZEROS { Page::Zero } else { Page::Data(Rc::new(page)) });
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(bytes: &[u8]) -> Vec<Page> {
        pages_of(&bytes.iter().map(|b| Bytes::from(vec![*b; BLOCK])).collect::<Vec<_>>())
    }

    fn write(file: &FileImage, first: u64, bytes: &[u8], dsync: bool) {
        file.begin_write(1, first, pages(bytes));
        file.finish_write(1, dsync);
    }

    fn contents(file: &FileImage) -> Vec<u8> {
        file.read(0, usize::MAX).to_vec()
    }

    #[test]
    fn a_sync_covers_what_came_before_its_start() {
        let mut kept = [0; 2];
        for seed in 0..100 {
            let file = FileImage::with_contents(&[1; 2 * BLOCK]);
            write(&file, 0, &[2], false);
            let point = file.sync_point();
            write(&file, 1, &[3], false);
            file.sync(point);
            file.lose_power(&SimRng::new(seed));
            assert_eq!(contents(&file)[..BLOCK], [2; BLOCK]);
            kept[usize::from(contents(&file)[BLOCK..] == [3; BLOCK])] += 1;
        }
        assert!(kept[0] > 10 && kept[1] > 10, "{kept:?}");
    }

    #[test]
    fn what_was_written_after_a_lost_truncation_is_lost_with_it() {
        let mut lengths = [0; 3];
        for seed in 0..200 {
            let file = FileImage::with_contents(&[1; 2 * BLOCK]);
            file.truncate(0);
            write(&file, 0, &[2], false);
            file.lose_power(&SimRng::new(seed));
            let found = contents(&file);
            lengths[found.len() / BLOCK] += 1;
            let allowed: &[u8] = if found.len() == 2 * BLOCK { &[1] } else { &[0, 2] };
            assert!(found.iter().all(|b| allowed.contains(b)), "seed {seed}: {} bytes", found.len());
        }
        assert!(lengths.iter().all(|n| *n > 20), "{lengths:?}");
    }

    #[test]
    fn zeros_need_no_memory() {
        let file = FileImage::default();
        write(&file, 0, &[0; 64], false);
        write(&file, 3, &[7], false);
        write(&file, 3, &[0], false);
        assert_eq!(file.size(), 64 * BLOCK as u64);
        assert!(file.0.borrow().current.pages.is_empty());
        file.sync(file.sync_point());
        assert!(file.0.borrow().durable.pages.is_empty() && file.0.borrow().pending.is_empty());
    }

    /// One random history of a file beside the plainest model of it.
    struct Model {
        file: FileImage,
        rng: SimRng,
        now: Vec<u8>,
        /// Every state since the last one that is known to be durable, that one first.
        since_durable: Vec<Vec<u8>>,
    }

    impl Model {
        fn step(&mut self) {
            let block = self.rng.index(6);
            match self.rng.below(8) {
                0..=3 => {
                    let bytes: Vec<u8> = (0..=self.rng.index(3)).map(|_| self.rng.below(4) as u8).collect();
                    write(&self.file, block as u64, &bytes, false);
                    self.now.resize(self.now.len().max((block + bytes.len()) * BLOCK), 0);
                    for (n, byte) in bytes.iter().enumerate() {
                        self.now[(block + n) * BLOCK..][..BLOCK].fill(*byte);
                    }
                }
                4 => {
                    let len = block * BLOCK + self.rng.index(BLOCK);
                    self.file.truncate(len as u64);
                    self.now.resize(len, 0);
                }
                5 => {
                    self.file.sync(self.file.sync_point());
                    self.since_durable.clear();
                }
                6 => self.file.kill(&self.rng),
                _ => self.lose_power(),
            }
            self.since_durable.push(self.now.clone());
            assert_eq!(contents(&self.file), self.now);
        }

        fn lose_power(&mut self) {
            self.file.lose_power(&self.rng);
            let found = contents(&self.file);
            assert!(self.since_durable.iter().any(|s| s.len() == found.len()), "a size that never was");
            for (at, byte) in found.iter().enumerate() {
                // Past the end of a state lies a hole.
                let known = self.since_durable.iter().any(|s| s.get(at).copied().unwrap_or(0) == *byte);
                assert!(known, "byte {at} is {byte}, which it never was since it was durable");
            }
            self.now = found;
            self.since_durable.clear();
        }
    }

    #[test]
    fn a_file_is_what_the_plainest_model_says() {
        for seed in 0..300 {
            let mut model = Model {
                file: FileImage::default(),
                rng: SimRng::new(seed),
                now: Vec::new(),
                since_durable: vec![Vec::new()],
            };
            (0..60).for_each(|_| model.step());
        }
    }
}
