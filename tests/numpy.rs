//! Files of NumPy and safetensors are read as they were written; `tests/data/sources.py` wrote them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use elistimator::data::{Array, Dataset, Record, read_npy, read_npz, read_safetensors, write_npy};
use elistimator::{ErrorKind, Result};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sources").join(name)
}

fn expected() -> Record {
    let f32s = vec![1.5f32, -2.0, f32::INFINITY, 0.1, 3e38, -0.0];
    Record::new()
        .with("f32", Array::new([2, 3], f32s).unwrap())
        .with("f64", vec![std::f64::consts::PI, -1e300])
        .with("i64", Array::new([2, 2, 1], vec![1i64, i64::MIN, i64::MAX, 0]).unwrap())
        .with("i32", -7i32)
        .with("u8", Array::new([1, 6], vec![0u8, 1, 2, 3, 4, 5]).unwrap())
        .with("bool", vec![true, false, true])
        .with("empty", Array::new([0, 3], Vec::<f32>::new()).unwrap())
}

#[test]
fn arrays_of_every_type_order_and_version_are_read() {
    for (name, array) in expected().iter() {
        assert_eq!(&read_npy(fixture(&format!("{name}.npy"))).unwrap(), array, "{name}");
    }
    let counted = Array::new([2, 3, 4], (0..24).collect::<Vec<i32>>()).unwrap();
    assert_eq!(read_npy(fixture("fortran.npy")).unwrap(), counted);
    assert_eq!(read_npy(fixture("big_endian.npy")).unwrap(), Array::from(vec![1.5f64, -2.0]));
    assert_eq!(&read_npy(fixture("version2.npy")).unwrap(), expected().get("u8").unwrap());
    let error = read_npy(fixture("half.npy")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("half.npy") && error.to_string().contains("<f2"), "{error}");
}

#[test]
fn what_is_written_is_what_numpy_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.npy");
    for (name, array) in expected().iter() {
        write_npy(&path, array).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(fixture(&format!("{name}.npy"))).unwrap(), "{name}");
    }
    assert_eq!(write_npy(&path, &Array::from("text")).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(write_npy(dir.path(), &Array::from(1.0f32)).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn archives_are_read_stored_and_deflated() {
    for name in ["stored.npz", "deflated.npz"] {
        assert_eq!(read_npz(fixture(name)).unwrap(), expected(), "{name}");
    }
    let some = expected();
    let rows = Record::new().with("f32", some.get("f32").unwrap().clone());
    assert_eq!(Dataset::from_arrays(rows).unwrap().len(), Some(2));
    assert_eq!(read_npz(fixture("f32.npy")).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(read_npz(fixture("none")).unwrap_err().kind(), ErrorKind::Io);
}

/// Every truncation is an error, and no flipped byte makes it panic; returns how many flips went unnoticed.
fn survives_damage(name: &str, read: impl Fn(&Path) -> Result<()>) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(fixture(name)).unwrap();
    let path = dir.path().join("damaged");
    for end in 0..bytes.len() {
        std::fs::write(&path, &bytes[..end]).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("damaged"), "the file is named: {error}");
    }
    let mut unnoticed = 0;
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            std::fs::write(&path, &bytes).unwrap();
            unnoticed += usize::from(read(&path).is_ok());
        }
    }
    unnoticed
}

#[test]
fn damaged_files_are_errors() {
    for name in ["f32.npy", "fortran.npy", "bool.npy", "version2.npy"] {
        survives_damage(name, |path| read_npy(path).map(drop));
    }
    for name in ["stored.npz", "deflated.npz"] {
        let unnoticed = survives_damage(name, |path| {
            let read = read_npz(path)?;
            for (name, array) in expected().iter().filter(|(name, _)| read.contains(name)) {
                assert_eq!(read.get(name).unwrap(), array, "the checksum notices changed values");
            }
            Ok(())
        });
        assert!(unnoticed > 0, "times and attributes of the archive mean nothing here");
    }
}

#[test]
fn hostile_headers_are_errors_and_allocate_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.npy");
    let with = |header: &str, values: &[u8]| {
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        std::fs::write(&path, [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), values].concat()).unwrap();
        read_npy(&path)
    };
    let shaped = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    assert!(with(&shaped("(1,)"), &[0; 4]).is_ok());
    assert!(with("{\"shape\":(2L,),'descr':'>i4','fortran_order':True}", &[0; 8]).is_ok());
    for shape in [
        "(4611686018427387904, 4)",
        "(18446744073709551615,)",
        "(99999999999999999999999,)",
        "(0, 9223372036854775807, 4)",
        "(1000000000,)",
        "(-1,)",
        "(1.0,)",
        "1",
        "(1",
        "(,)",
        "()()",
    ] {
        let error = with(&shaped(shape), &[0; 4]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{shape}: {error}");
    }
    for header in [
        "",
        "{}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
        "{'descr': '<f4, 'fortran_order': False",
        "{'descr': 'f4', 'fortran_order': False, 'shape': (1,)}",
    ] {
        assert!(with(header, &[0; 4]).is_err(), "{header}");
    }
    assert!(with("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", &[0; 4]).is_err());
    assert!(with("{'descr': '|b1', 'fortran_order': False, 'shape': (1,)}", &[2]).is_err(), "no boolean");
    assert!(with(&shaped("(1,)"), &[0; 5]).unwrap_err().to_string().contains("found 5 bytes of values, expected 4"));
    std::fs::write(&path, [b"\x93NUMPY\x02\x00", &u32::MAX.to_le_bytes()[..]].concat()).unwrap();
    assert!(read_npy(&path).unwrap_err().to_string().contains("4294967295 bytes"));
}

#[test]
fn safetensors_are_read_and_damaged_ones_are_errors() {
    let read = read_safetensors(fixture("arrays.safetensors")).unwrap();
    assert_eq!(read.len(), expected().len());
    for (name, array) in expected().iter() {
        assert_eq!(read.get(name).unwrap(), array, "{name}");
    }
    let error = read_safetensors(fixture("half.safetensors")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("\"half\": type F16"), "{error}");
    survives_damage("arrays.safetensors", |path| read_safetensors(path).map(drop));
    assert_eq!(read_safetensors(fixture("f32.npy")).unwrap_err().kind(), ErrorKind::Corrupt);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile");
    for (header, data) in [
        (r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#, 8),
        (r#"{"a":{"dtype":"F32","shape":[0,9223372036854775807,4],"data_offsets":[0,0]}}"#, 0),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8),
        (r#"{"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}"#, 1),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
            2,
        ),
    ] {
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(&path, [&length[..], header.as_bytes(), &vec![7; data]].concat()).unwrap();
        assert_eq!(read_safetensors(&path).unwrap_err().kind(), ErrorKind::Corrupt, "{header}");
    }
}
