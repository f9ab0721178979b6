//! Directories of images; `tests/data/sources.py` wrote the images with Pillow.

#![cfg(feature = "image")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use elistimator::data::{Array, Dataset, Dtype, ImageFolder, Record};
use elistimator::{ErrorKind, Result};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sources").join(name)).unwrap()
}

/// Two classes, and files that belong to none.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("b/2.png", fixture("grey.png")),
        ("b/1.PNG", fixture("colours.png")),
        ("a/flat.jpg", fixture("flat.jpg")),
        ("a/misnamed.jpeg", fixture("colours.png")),
        ("a/notes.txt", b"no image".to_vec()),
        ("a/.hidden.png", b"no image".to_vec()),
        (".git/x.png", b"no image".to_vec()),
        ("readme.png", b"no image".to_vec()),
    ] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    dir
}

fn all(data: &Dataset, position: u64) -> Vec<Record> {
    data.open(0, 0, position).unwrap().collect::<Result<_>>().unwrap()
}

fn colours() -> Array {
    let pixels = (0..4u8).flat_map(|y| (0..6u8).flat_map(move |x| [x * 40, y * 60, x * y * 10]));
    Array::new([4, 6, 3], pixels.collect::<Vec<u8>>()).unwrap()
}

#[test]
fn images_come_with_the_labels_of_their_directories() {
    let dir = folder();
    let images = ImageFolder::new(dir.path()).unwrap();
    assert_eq!(images.class_names(), ["a", "b"]);
    assert_eq!(images.len(), 4);
    let data = images.clone().dataset();
    let records = all(&data, 0);
    let labels: Vec<_> = records.iter().map(|record| record.get("label").unwrap().clone()).collect();
    assert_eq!(labels, [0i64, 0, 1, 1].map(Array::from));
    assert_eq!(records[1].get("image").unwrap(), &colours());
    assert_eq!(records[2].get("image").unwrap(), &colours());
    let grey = records[3].get("image").unwrap();
    assert_eq!((grey.dims(), grey.dtype()), (&[4, 6, 3][..], Dtype::U8));
    assert!(grey.as_slice::<u8>().unwrap().chunks(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
    let flat = records[0].get("image").unwrap();
    assert_eq!(flat.dims(), [8, 8, 3]);
    for pixel in flat.as_slice::<u8>().unwrap().chunks(3) {
        assert!(pixel.iter().zip([200u8, 100, 50]).all(|(&found, near)| found.abs_diff(near) < 5), "{pixel:?}");
    }
    for position in 0..6 {
        assert_eq!(all(&data, position as u64), records[position.min(4)..]);
    }
    std::fs::write(dir.path().join("b/3.png"), fixture("grey.png")).unwrap();
    assert_ne!(ImageFolder::new(dir.path()).unwrap().dataset().fingerprint(), data.fingerprint());
}

#[test]
fn images_of_one_size_make_batches() {
    let dir = folder();
    let images = ImageFolder::new(dir.path()).unwrap();
    let batch = images.clone().size(5, 7).dataset().batch(4).open(0, 0, 0).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.get("image").unwrap().dims(), [4, 5, 7, 3]);
    let grey = all(&images.clone().size(2, 3).grayscale().dataset(), 0);
    assert_eq!(grey[0].get("image").unwrap().dims(), [2, 3, 1]);
    // 200, 100, 50 under the weights of BT.709, with JPEG's rounding.
    let luma = 0.2126 * 200.0 + 0.7152 * 100.0 + 0.0722 * 50.0;
    for &pixel in grey[0].get("image").unwrap().as_slice::<u8>().unwrap() {
        assert!((f64::from(pixel) - luma).abs() < 4.0, "{pixel} is not near {luma}");
    }
    for size in [(0, 3), (3, 0), (usize::MAX, 1)] {
        let error = images.clone().size(size.0, size.1).dataset().open(0, 0, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    let error = images.size(60_000, 60_000).dataset().open(0, 0, 0).unwrap().next().unwrap().unwrap_err();
    assert!(error.to_string().contains("max_image_bytes") && error.to_string().contains("flat.jpg"), "{error}");
}

#[test]
fn directories_without_classes_or_images_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    assert!(ImageFolder::new(dir.path()).unwrap_err().to_string().contains("one for each class"));
    std::fs::create_dir(dir.path().join("cats")).unwrap();
    let error = ImageFolder::new(dir.path()).unwrap_err();
    assert!(error.to_string().contains("cats: found no image"), "{error}");
    assert_eq!(ImageFolder::new(dir.path().join("none")).unwrap_err().kind(), ErrorKind::Io);
}

/// The first image of a folder with this one file.
fn decode(name: &str, bytes: &[u8]) -> Result<Array> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("x")).unwrap();
    std::fs::write(dir.path().join("x").join(name), bytes).unwrap();
    let record = ImageFolder::new(dir.path())?.max_image_bytes(1 << 20).dataset().open(0, 0, 0)?.next().unwrap()?;
    record.get("image").cloned()
}

#[test]
fn damaged_images_are_errors_that_name_the_file_or_some_other_image() {
    for name in ["colours.png", "grey.png", "flat.jpg"] {
        let bytes = fixture(name);
        let mut errors = 0;
        let mut check = |damaged: &[u8]| {
            if let Err(error) = decode(name, damaged) {
                assert!(error.to_string().contains(name), "{error}");
                errors += 1;
            }
        };
        (0..bytes.len()).for_each(|end| check(&bytes[..end]));
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= flip;
                check(&bytes);
            }
        }
        assert!(errors > bytes.len() / 2, "{name}: {errors}");
    }
    assert_eq!(decode("gif.png", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;").unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(decode("empty.png", b"").is_err());
}

#[test]
fn images_that_claim_to_be_huge_are_refused() {
    let mut png = fixture("colours.png");
    png[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let crc = crc32fast::hash(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = decode("bomb.png", &png).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    png[16..20].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
    let crc = crc32fast::hash(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    assert!(decode("bomb.png", &png).is_err());
}

#[test]
fn channels_come_first_where_that_is_asked_for() {
    let dir = folder();
    let last = ImageFolder::new(dir.path()).unwrap().size(3, 5);
    let first = last.clone().channels_first();
    let images = |images: &ImageFolder| all(&images.clone().dataset(), 1).remove(0).get("image").unwrap().clone();
    let (found, pixels) = (images(&first), images(&last));
    assert_eq!((found.dims(), pixels.dims()), (&[3, 3, 5][..], &[3, 5, 3][..]));
    let (found, pixels) = (found.as_slice::<u8>().unwrap(), pixels.as_slice::<u8>().unwrap());
    for (place, channel) in (0..15).flat_map(|place| (0..3).map(move |channel| (place, channel))) {
        assert_eq!(found[15 * channel + place], pixels[3 * place + channel]);
    }
    assert_eq!(images(&first.clone().grayscale()).dims(), [1, 3, 5]);
    assert_ne!(first.dataset().fingerprint(), last.dataset().fingerprint());
}
