//! Names: directories, what of them is durable, and what a crash makes of the rest.

use super::image::FileImage;
use super::rng::SimRng;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Node {
    File(Rc<FileImage>),
    Dir(Rc<Dir>),
}

type Names = BTreeMap<String, Node>;

/// A change of a directory that is not yet durable.
#[derive(Debug)]
enum Change {
    Link(String, Node),
    Unlink(String),
    Rename(String, String),
}

fn apply(names: &mut Names, change: &Change) {
    match change {
        Change::Link(name, node) => drop(names.insert(name.clone(), node.clone())),
        Change::Unlink(name) => drop(names.remove(name)),
        Change::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

/// Invariant: `current` is `durable` with the changes of `pending` applied in order.
#[derive(Debug, Default)]
struct State {
    current: Names,
    durable: Names,
    pending: Vec<Change>,
}

/// A directory.
#[derive(Debug, Default)]
pub(super) struct Dir(RefCell<State>);

/// The components of a path, which may not climb.
fn components(path: &Path) -> Result<Vec<&str>, Error> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                let name = name.to_str();
                names.push(name.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "the name is not UTF-8"))?);
            }
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::new(ErrorKind::InvalidInput, "the simulated disk has no `..`"));
            }
        }
    }
    Ok(names)
}

fn not_found() -> Error {
    Error::from_raw_os_error(libc::ENOENT)
}

impl Dir {
    fn change(&self, change: Change) {
        let mut state = self.0.borrow_mut();
        apply(&mut state.current, &change);
        state.pending.push(change);
    }

    pub(super) fn get(&self, name: &str) -> Option<Node> {
        self.0.borrow().current.get(name).cloned()
    }

    /// The names and what they stand for, in order.
    pub(super) fn entries(&self) -> Vec<(String, Node)> {
        self.0.borrow().current.iter().map(|(name, node)| (name.clone(), node.clone())).collect()
    }

    pub(super) fn link(&self, name: &str, node: Node) {
        self.change(Change::Link(name.to_owned(), node));
    }

    /// Makes all names durable.
    pub(super) fn sync(&self) {
        let state = &mut *self.0.borrow_mut();
        for change in state.pending.drain(..) {
            apply(&mut state.durable, &change);
        }
    }

    /// Makes all names below durable, too.
    pub(super) fn sync_all(&self) {
        self.sync();
        for node in self.0.borrow().current.values() {
            if let Node::Dir(dir) = node {
                dir.sync_all();
            }
        }
    }

    /// Finds what `path` names.
    pub(super) fn find(self: &Rc<Self>, path: &Path) -> Result<Node, Error> {
        let mut node = Node::Dir(self.clone());
        for name in components(path)? {
            let Node::Dir(dir) = node else { return Err(Error::from_raw_os_error(libc::ENOTDIR)) };
            node = dir.get(name).ok_or_else(not_found)?;
        }
        Ok(node)
    }

    pub(super) fn find_dir(self: &Rc<Self>, path: &Path) -> Result<Rc<Self>, Error> {
        match self.find(path)? {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(Error::from_raw_os_error(libc::ENOTDIR)),
        }
    }

    pub(super) fn find_file(self: &Rc<Self>, path: &Path) -> Result<Rc<FileImage>, Error> {
        match self.find(path)? {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(Error::from_raw_os_error(libc::EISDIR)),
        }
    }

    /// The directory that holds the last name of `path`, and that name.
    pub(super) fn parent<'p>(self: &Rc<Self>, path: &'p Path) -> Result<(Rc<Self>, &'p str), Error> {
        let mut names = components(path)?;
        let last = names.pop().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "the root has no name"))?;
        let dir = self.find_dir(&names.iter().collect::<PathBuf>())?;
        Ok((dir, last))
    }

    pub(super) fn create_all(self: &Rc<Self>, path: &Path) -> Result<Rc<Self>, Error> {
        let mut dir = self.clone();
        for name in components(path)? {
            dir = match dir.get(name) {
                Some(Node::Dir(next)) => next,
                Some(Node::File(_)) => return Err(Error::from_raw_os_error(libc::ENOTDIR)),
                None => {
                    let next = Rc::new(Self::default());
                    dir.link(name, Node::Dir(next.clone()));
                    next
                }
            };
        }
        Ok(dir)
    }

    pub(super) fn rename(self: &Rc<Self>, from: &Path, to: &Path) -> Result<(), Error> {
        let node = self.find(from)?;
        let ((from_dir, from_name), (to_dir, to_name)) = (self.parent(from)?, self.parent(to)?);
        match (&node, to_dir.get(to_name)) {
            (Node::Dir(_), Some(Node::Dir(target))) if !target.0.borrow().current.is_empty() => {
                return Err(Error::from_raw_os_error(libc::ENOTEMPTY));
            }
            (Node::Dir(_), Some(Node::File(_))) => return Err(Error::from_raw_os_error(libc::ENOTDIR)),
            (Node::File(_), Some(Node::Dir(_))) => return Err(Error::from_raw_os_error(libc::EISDIR)),
            _ => {}
        }
        if Rc::ptr_eq(&from_dir, &to_dir) {
            if from_name != to_name {
                from_dir.change(Change::Rename(from_name.to_owned(), to_name.to_owned()));
            }
            return Ok(());
        }
        if matches!(node, Node::Dir(_)) && to.starts_with(from) {
            return Err(Error::from_raw_os_error(libc::EINVAL));
        }
        // Neither or both: with one order of changes a directory, only a commit at once can promise that.
        from_dir.change(Change::Unlink(from_name.to_owned()));
        to_dir.link(to_name, node);
        from_dir.sync();
        to_dir.sync();
        Ok(())
    }

    pub(super) fn remove_file(self: &Rc<Self>, path: &Path) -> Result<(), Error> {
        self.find_file(path)?;
        let (dir, name) = self.parent(path)?;
        dir.change(Change::Unlink(name.to_owned()));
        Ok(())
    }

    pub(super) fn remove_dir_all(self: &Rc<Self>, path: &Path) -> Result<(), Error> {
        let target = self.find_dir(path)?;
        let (dir, name) = self.parent(path)?;
        target.remove_contents();
        dir.change(Change::Unlink(name.to_owned()));
        Ok(())
    }

    fn remove_contents(&self) {
        for (name, node) in self.entries() {
            if let Node::Dir(dir) = node {
                dir.remove_contents();
            }
            self.change(Change::Unlink(name));
        }
    }

    /// Every file below, with its path.
    pub(super) fn files(&self) -> Vec<(PathBuf, Rc<FileImage>)> {
        let mut found = Vec::new();
        self.walk(&PathBuf::from("/"), &mut found);
        found
    }

    fn walk(&self, at: &Path, found: &mut Vec<(PathBuf, Rc<FileImage>)>) {
        for (name, node) in &self.0.borrow().current {
            match node {
                Node::File(file) => found.push((at.join(name), file.clone())),
                Node::Dir(dir) => dir.walk(&at.join(name), found),
            }
        }
    }

    /// The machine loses power: of the changes since the last sync, a beginning is kept; so on, below.
    pub(super) fn lose_power(&self, rng: &SimRng) {
        let state = &mut *self.0.borrow_mut();
        let kept = rng.index(state.pending.len() + 1);
        for change in state.pending.drain(..).take(kept) {
            apply(&mut state.durable, &change);
        }
        state.current = state.durable.clone();
        for node in state.current.values() {
            match node {
                Node::File(file) => file.lose_power(rng),
                Node::Dir(dir) => dir.lose_power(rng),
            }
        }
    }

    /// The process dies: names stay as they are, writes in flight are torn.
    pub(super) fn kill(&self, rng: &SimRng) {
        for node in self.0.borrow().current.values() {
            match node {
                Node::File(file) => file.kill(rng),
                Node::Dir(dir) => dir.kill(rng),
            }
        }
    }
}
