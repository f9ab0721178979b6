//! Images of a directory for each class.

use std::cell::RefCell;

use super::mutator::Mutator;
use super::targets::taken;
use crate::data::ImageFolder;

/// The most bytes that decoded pixels may have. A flat JPEG is decoded in rows of sixteen, with two bytes a value and more, and
/// these too have to fit into what may be reserved.
const MOST: u64 = 1 << 14;

/// The checksums of the chunks of a PNG file.
#[allow(clippy::ptr_arg)] // of one type with the others, some of which change the length
pub(super) fn checksums(bytes: &mut Vec<u8>, mutator: &mut Mutator) {
    if !bytes.starts_with(b"\x89PNG") || mutator.one_in(16) {
        return;
    }
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = length.iter().fold(0usize, |all, &byte| all << 8 | usize::from(byte));
        let end = at + 8 + length;
        if end + 4 > bytes.len() {
            return;
        }
        let checksum = crc32fast::hash(&bytes[at + 4..end]).to_be_bytes();
        bytes[end..end + 4].copy_from_slice(&checksum);
        at = end + 4;
    }
}

pub(super) fn image(bytes: &[u8]) -> bool {
    thread_local!(static DIR: RefCell<Option<(tempfile::TempDir, ImageFolder)>> = const { RefCell::new(None) });
    DIR.with_borrow_mut(|found| {
        let (dir, folder) = found.get_or_insert_with(|| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("class")).unwrap();
            std::fs::write(dir.path().join("class/image.png"), b"").unwrap();
            let folder = ImageFolder::new(dir.path()).unwrap().max_image_bytes(MOST);
            (dir, folder)
        });
        std::fs::write(dir.path().join("class/image.png"), bytes).unwrap();
        let read = |folder: ImageFolder| {
            let record = taken(folder.dataset().open(0, 0, 0).unwrap().next().unwrap())?;
            let image = record.get("image").unwrap().clone();
            assert_eq!(image.dims().len(), 3);
            Some(image)
        };
        let Some(whole) = read(folder.clone()) else { return false };
        if let Some(small) = read(folder.clone().size(5, 7).grayscale()) {
            assert_eq!(small.dims(), [5, 7, 1]);
        }
        whole.dims()[2] == 3
    })
}
