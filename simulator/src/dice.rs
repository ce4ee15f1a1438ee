//! Chance, seeded: the seed is the whole story.

/// xorshift64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that always fall the same way for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // The first throws of neighbouring seeds are alike.
        for _ in 0..4 {
            dice.roll(2);
        }
        dice
    }

    /// 0 to `sides` − 1.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides.max(1)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll(high.saturating_sub(low) + 1)
    }

    /// True in this many of a thousand throws.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.roll(1000) < per_mille
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let index = usize::try_from(self.roll(from.len() as u64)).ok()?;
        from.get(index).copied()
    }

    /// How long something takes that mostly takes about `usual` milliseconds, sometimes ten times as long, and now and then ages.
    pub fn while_of(&mut self, usual: u64) -> u64 {
        match self.roll(100) {
            0 => self.between(usual * 10, usual * 100),
            1..10 => self.between(usual, usual * 10),
            _ => self.between(usual / 2, usual * 3 / 2),
        }
    }
}
