//! Undo and redo of whole documents.

/// Steps kept.
const DEPTH: usize = 200;

/// What was, what is, and what was undone.
#[derive(Clone, Debug)]
pub struct History<D> {
    undo: Vec<D>,
    redo: Vec<D>,
    settled: D,
}

impl<D: Clone + PartialEq> History<D> {
    /// A history that begins with this state.
    #[must_use]
    pub fn new(start: D) -> Self {
        Self {
            undo: Vec::new(),
            redo: Vec::new(),
            settled: start,
        }
    }

    /// Notes a state in which nothing is being dragged or typed. A change becomes one step.
    pub fn settle(&mut self, now: &D) {
        if *now == self.settled {
            return;
        }
        if self.undo.len() == DEPTH {
            self.undo.remove(0);
        }
        self.undo
            .push(std::mem::replace(&mut self.settled, now.clone()));
        self.redo.clear();
    }

    /// Changes the state as a consequence of what was done before, which is no step: undo takes it back together with what it
    /// follows from, and what was undone can still be redone.
    pub fn follow(&mut self, now: &mut D, change: impl FnOnce(&mut D)) {
        let is_settled = *now == self.settled;
        change(now);
        if !is_settled {
            // It becomes a part of the step that is still being made.
            return;
        }
        self.settled.clone_from(now);
        // A step that came to nothing is none.
        if self.undo.last() == Some(&self.settled) {
            self.undo.pop();
        }
    }

    /// Forgets everything and begins again.
    pub fn restart(&mut self, start: D) {
        *self = Self::new(start);
    }

    /// The state before the last change.
    pub fn undo(&mut self, now: &D) -> Option<D> {
        self.settle(now);
        let before = self.undo.pop()?;
        self.redo
            .push(std::mem::replace(&mut self.settled, before.clone()));
        Some(before)
    }

    /// The state that was undone last.
    pub fn redo(&mut self, now: &D) -> Option<D> {
        self.settle(now);
        let after = self.redo.pop()?;
        self.undo
            .push(std::mem::replace(&mut self.settled, after.clone()));
        Some(after)
    }

    /// Whether there is something to undo.
    #[must_use]
    pub fn can_undo(&self) -> bool {
        !self.undo.is_empty()
    }

    /// Whether there is something to redo.
    #[must_use]
    pub fn can_redo(&self) -> bool {
        !self.redo.is_empty()
    }
}

impl<D> History<D> {
    /// Changes every state alike: for what happened and cannot be undone.
    pub fn amend(&mut self, change: impl Fn(&mut D)) {
        let states = self.undo.iter_mut().chain(&mut self.redo);
        for state in states.chain(std::iter::once(&mut self.settled)) {
            change(state);
        }
    }
}
