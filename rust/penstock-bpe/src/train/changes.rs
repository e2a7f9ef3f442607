//! What one merge changes in the counts of pairs, gathered by neighbour before it touches the pairs.

/// Marks a new pair that is too rare to be kept.
const DROPPED: u32 = u32::MAX;

/// The changes of the two pairs that one neighbour takes part in.
#[derive(Debug, Clone, Copy, Default)]
struct Neighbour {
    /// Lost by its old pair.
    lost: i64,
    /// Won by its new pair.
    born: i64,
    /// Places of the new pair; later the number of its list.
    places: u32,
}

/// The changes on one side of the merged pair; only `touched` neighbours have any.
#[derive(Debug)]
pub(super) struct Side {
    neighbours: Vec<Neighbour>,
    touched: Vec<u32>,
    /// Neighbour, and place of the left token of the new pair, ascending.
    places: Vec<(u32, u32)>,
    /// The lists being filled.
    lists: Vec<(u32, i64, Vec<u32>)>,
}

impl Side {
    fn new(ids: usize) -> Self {
        Self {
            neighbours: vec![Neighbour::default(); ids],
            touched: Vec::new(),
            places: Vec::new(),
            lists: Vec::new(),
        }
    }

    #[inline]
    fn touch(&mut self, id: u32) -> &mut Neighbour {
        let neighbour = &mut self.neighbours[id as usize];
        if neighbour.lost == 0 && neighbour.born == 0 && neighbour.places == 0 {
            self.touched.push(id);
        }
        neighbour
    }

    /// An occurrence that counts `weight` has this neighbour; its new pair is at `place`.
    #[inline]
    fn add(&mut self, id: u32, place: u32, weight: i64) {
        let neighbour = self.touch(id);
        neighbour.lost += weight;
        neighbour.born += weight;
        neighbour.places += 1;
        self.places.push((id, place));
    }

    /// Hands out the losses by neighbour, then the new pairs that count `least` or more, by neighbour in the order of
    /// first touch. Leaves nothing.
    pub(super) fn drain(&mut self, least: i64, mut take: impl FnMut(u32, Change)) {
        for &id in &self.touched {
            let neighbour = &mut self.neighbours[id as usize];
            if neighbour.lost != 0 {
                take(id, Change::Lost(neighbour.lost));
            }
            let is_kept = neighbour.born >= least && neighbour.places > 0;
            let list = if is_kept { self.lists.len() as u32 } else { DROPPED };
            if is_kept {
                self.lists.push((id, neighbour.born, Vec::with_capacity(neighbour.places as usize)));
            }
            neighbour.places = list;
        }
        for (id, place) in self.places.drain(..) {
            let list = self.neighbours[id as usize].places;
            if list != DROPPED {
                self.lists[list as usize].2.push(place);
            }
        }
        for id in self.touched.drain(..) {
            self.neighbours[id as usize] = Neighbour::default();
        }
        self.lists.drain(..).for_each(|(id, count, places)| take(id, Change::Born(count, places)));
    }
}

/// What happens to the pair of a neighbour.
#[derive(Debug)]
pub(super) enum Change {
    /// Its old pair loses so many counts.
    Lost(i64),
    /// Its new pair wins so many counts, at these places.
    Born(i64, Vec<u32>),
}

/// The changes of one merge of (left, right) into a product.
#[derive(Debug)]
pub(super) struct Changes {
    /// (neighbour, left) becomes (neighbour, product).
    pub(super) before: Side,
    /// (right, neighbour) becomes (product, neighbour).
    pub(super) behind: Side,
}

impl Changes {
    /// No changes yet, for token ids below `ids`.
    pub(super) fn new(ids: usize) -> Self {
        Self { before: Side::new(ids), behind: Side::new(ids) }
    }

    /// An occurrence that counts `weight` has `neighbour`, which stands at `place`, before it.
    #[inline]
    pub(super) fn before(&mut self, neighbour: u32, place: u32, weight: i64) {
        self.before.add(neighbour, place, weight);
    }

    /// An occurrence at whose `place` the product now stands has `neighbour` behind it.
    #[inline]
    pub(super) fn behind(&mut self, neighbour: u32, place: u32, weight: i64) {
        self.behind.add(neighbour, place, weight);
    }

    /// An occurrence follows another of this same merge, whose `product` stands at `place`: that one took this one's
    /// `left` for its neighbour, and now has a product instead.
    #[inline]
    pub(super) fn after_product(&mut self, product: u32, place: u32, left: u32, weight: i64) {
        self.behind.touch(left).born -= weight;
        let neighbour = self.before.touch(product);
        neighbour.born += weight;
        neighbour.places += 1;
        self.before.places.push((product, place));
    }
}
