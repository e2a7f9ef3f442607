//! What one merge changes in the counts of pairs, gathered by neighbour before it touches the table of pairs.

/// Sums by neighbour, by token id; only `touched` ids are not 0.
#[derive(Debug)]
pub(super) struct Sums {
    counts: Vec<i64>,
    is_touched: Vec<bool>,
    touched: Vec<u32>,
}

impl Sums {
    fn new(ids: usize) -> Self {
        Self { counts: vec![0; ids], is_touched: vec![false; ids], touched: Vec::new() }
    }

    #[inline]
    fn add(&mut self, id: u32, count: i64) {
        let index = id as usize;
        if !self.is_touched[index] {
            self.is_touched[index] = true;
            self.touched.push(id);
        }
        self.counts[index] += count;
    }

    /// Calls `take` with each touched id and its sum, in the order of first touch, and leaves all at 0.
    pub(super) fn drain(&mut self, mut take: impl FnMut(u32, i64)) {
        for id in self.touched.drain(..) {
            let index = id as usize;
            take(id, std::mem::take(&mut self.counts[index]));
            self.is_touched[index] = false;
        }
    }
}

/// The changes of one merge of (left, right) into a product.
#[derive(Debug)]
pub(super) struct Changes {
    /// Counts lost by (neighbour, left).
    pub(super) lost_before: Sums,
    /// Counts lost by (right, neighbour).
    pub(super) lost_behind: Sums,
    /// Counts won by (neighbour, product).
    pub(super) born_before: Sums,
    /// Counts won by (product, neighbour).
    pub(super) born_behind: Sums,
    /// Neighbour and place of each new (neighbour, product).
    pub(super) places_before: Vec<(u32, u32)>,
    /// Neighbour and place of each new (product, neighbour).
    pub(super) places_behind: Vec<(u32, u32)>,
}

impl Changes {
    /// No changes yet, for token ids below `ids`.
    pub(super) fn new(ids: usize) -> Self {
        Self {
            lost_before: Sums::new(ids),
            lost_behind: Sums::new(ids),
            born_before: Sums::new(ids),
            born_behind: Sums::new(ids),
            places_before: Vec::new(),
            places_behind: Vec::new(),
        }
    }

    /// An occurrence that counts `weight` has `neighbour`, which stands at `place`, before it.
    #[inline]
    pub(super) fn before(&mut self, neighbour: u32, place: u32, weight: i64) {
        self.lost_before.add(neighbour, weight);
        self.born_before.add(neighbour, weight);
        self.places_before.push((neighbour, place));
    }

    /// An occurrence at whose `place` the product now stands has `neighbour` behind it.
    #[inline]
    pub(super) fn behind(&mut self, neighbour: u32, place: u32, weight: i64) {
        self.lost_behind.add(neighbour, weight);
        self.born_behind.add(neighbour, weight);
        self.places_behind.push((neighbour, place));
    }

    /// An occurrence follows another of this same merge, whose `product` stands at `place`: that one took this one's
    /// `left` for its neighbour, and now has a product instead.
    #[inline]
    pub(super) fn after_product(&mut self, product: u32, place: u32, left: u32, weight: i64) {
        self.born_behind.add(left, -weight);
        self.born_before.add(product, weight);
        self.places_before.push((product, place));
    }
}
