//! A file as a drive has it: what is read now, and what a loss of power would leave.
//!
//! A write changes the live image; a sector of it is durable when it was synced, or by luck.

use fastrand::Rng;

/// What a drive writes whole or not at all, unless it is interrupted.
pub(crate) const SECTOR_BYTES: usize = 512;

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(crate) struct SectorFile {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// For each sector, whether both images may differ there.
    unsynced: Vec<bool>,
}

impl SectorFile {
    /// A file of so many zeros, durable.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { live: vec![0; len], durable: vec![0; len], unsynced: vec![false; len.div_ceil(SECTOR_BYTES)] }
    }

    /// The live image.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.live
    }

    /// Writes, and extends the file if need be.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        if end > self.live.len() {
            self.set_len(end);
        }
        self.live[at..end].copy_from_slice(bytes);
        self.unsynced[at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)].fill(true);
    }

    /// Cuts the file, or extends it by zeros.
    pub(crate) fn set_len(&mut self, len: usize) {
        let first = len.min(self.live.len()) / SECTOR_BYTES;
        self.live.resize(len, 0);
        let sectors = len.max(self.durable.len()).div_ceil(SECTOR_BYTES);
        self.unsynced.resize(sectors, true);
        self.unsynced[first..].fill(true);
    }

    /// Makes the live image durable.
    pub(crate) fn sync(&mut self) {
        self.durable.resize(self.live.len(), 0);
        for sector in 0..self.unsynced.len() {
            if std::mem::take(&mut self.unsynced[sector]) {
                let range = self.range(sector);
                self.durable[range.clone()].copy_from_slice(&self.live[range]);
            }
        }
        self.unsynced.truncate(self.live.len().div_ceil(SECTOR_BYTES));
    }

    /// The power goes: each sector that was not synced survives or is lost, and the length is the old one or the new.
    pub(crate) fn lose_power(&mut self, rng: &mut Rng) {
        let len = if rng.bool() { self.live.len() } else { self.durable.len() };
        let longest = self.live.len().max(self.durable.len());
        self.live.resize(longest, 0);
        self.durable.resize(longest, 0);
        // Most often a drive has lost all or nothing.
        let survives = [0, 50, 100][rng.usize(..3)];
        for sector in 0..self.unsynced.len() {
            if std::mem::take(&mut self.unsynced[sector]) {
                let range = self.range(sector);
                if rng.u32(..100) < survives {
                    self.durable[range.clone()].copy_from_slice(&self.live[range]);
                } else {
                    self.live[range.clone()].copy_from_slice(&self.durable[range]);
                }
            }
        }
        self.live.truncate(len);
        self.durable.truncate(len);
        self.unsynced = vec![false; len.div_ceil(SECTOR_BYTES)];
    }

    /// A write that death or a loss of power interrupts: each of its sectors is written, or not, or torn.
    pub(crate) fn write_interrupted(&mut self, at: usize, bytes: &[u8], rng: &mut Rng) {
        let all = rng.u32(..100);
        for (sector, piece) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let written = match rng.u32(..100) {
                0..5 => rng.usize(..=piece.len()),
                dice if dice < all => piece.len(),
                _ => 0,
            };
            self.write(at + sector * SECTOR_BYTES, &piece[..written]);
        }
    }

    /// Flips a bit, in both images: the drive has it so.
    pub(crate) fn flip(&mut self, at: usize, bit: u32) {
        for image in [&mut self.live, &mut self.durable] {
            if let Some(byte) = image.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
    }

    /// A sector becomes what it was when it was last synced, as if it had not been written since. Whether that
    /// changes anything.
    pub(crate) fn go_stale(&mut self, sector: usize) -> bool {
        let range = self.range(sector);
        if range.end > self.durable.len() || self.live[range.clone()] == self.durable[range.clone()] {
            return false;
        }
        self.live[range.clone()].copy_from_slice(&self.durable[range]);
        true
    }

    fn range(&self, sector: usize) -> std::ops::Range<usize> {
        let end = self.live.len().min((sector + 1) * SECTOR_BYTES);
        (sector * SECTOR_BYTES).min(end)..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_rest_by_luck() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..200 {
            let mut file = SectorFile::zeroed(2 * SECTOR_BYTES);
            file.write(0, &[1; SECTOR_BYTES]);
            file.sync();
            file.write(SECTOR_BYTES, &[2; 2 * SECTOR_BYTES]);
            file.lose_power(&mut Rng::with_seed(seed));
            assert_eq!(file.bytes()[..SECTOR_BYTES], [1; SECTOR_BYTES]);
            match file.bytes()[SECTOR_BYTES] {
                2 => kept += 1,
                0 => lost += 1,
                other => panic!("{other}"),
            }
        }
        assert!(kept > 20 && lost > 20, "{kept} {lost}");
    }

    #[test]
    fn a_cut_file_is_as_long_as_it_is_and_zeros_come_back() {
        let mut file = SectorFile::default();
        file.write(0, &[7; 1000]);
        file.sync();
        file.set_len(100);
        file.write(600, &[8; 10]);
        assert_eq!(
            (file.bytes().len(), file.bytes()[99], file.bytes()[100], file.bytes()[609]),
            (610, 7, 0, 8)
        );
        file.sync();
        file.lose_power(&mut Rng::with_seed(1));
        assert_eq!((file.bytes().len(), file.bytes()[100]), (610, 0));
    }
}
