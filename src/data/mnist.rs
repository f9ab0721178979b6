//! MNIST and data sets in its four files.

use std::path::{Path, PathBuf};

use crate::data::{Array, Dataset, Dtype, Record, read_idx};
use crate::{Error, ErrorKind, Result};

/// MNIST, or Fashion-MNIST, from its four IDX files: records of `images` (f32, raw 0 to 255, shape 1 x 28 x 28) and `labels`
/// (i64). In memory the pixels are bytes.
#[derive(Debug, Clone)]
pub struct Mnist {
    train: Dataset,
    test: Dataset,
}

impl Mnist {
    /// Reads `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`,
    /// each with or without `.gz`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming the missing file; [`ErrorKind::Corrupt`] naming the damaged one.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        Ok(Self { train: half(dir, "train")?, test: half(dir, "t10k")? })
    }

    /// The training examples, 60,000 in MNIST.
    pub fn train(&self) -> Dataset {
        self.train.clone()
    }

    /// The test examples, 10,000 in MNIST.
    pub fn test(&self) -> Dataset {
        self.test.clone()
    }
}

fn half(dir: &Path, name: &str) -> Result<Dataset> {
    let images_path = find(dir, &format!("{name}-images-idx3-ubyte"))?;
    let labels_path = find(dir, &format!("{name}-labels-idx1-ubyte"))?;
    let (images, labels) = (read_idx(&images_path)?, read_idx(&labels_path)?);
    let corrupt =
        |path: &Path, message: String| Error::new(ErrorKind::Corrupt, format!("{}: {message}", path.display()));
    let (&[count, height, width], Dtype::U8) = (images.dims(), images.dtype()) else {
        let message = format!("found {} of shape {:?}, expected u8 of three axes", images.dtype(), images.dims());
        return Err(corrupt(&images_path, message));
    };
    if labels.dims() != [count] || labels.dtype() != Dtype::U8 {
        let message = format!("found {} of shape {:?}, expected {count} labels of u8", labels.dtype(), labels.dims());
        return Err(corrupt(&labels_path, message));
    }
    let images = images.reshape([count, 1, height, width])?;
    let labels: Array = labels.as_slice::<u8>()?.iter().map(|&label| i64::from(label)).collect::<Vec<_>>().into();
    let dataset = Dataset::from_arrays(Record::new().with("images", images).with("labels", labels))?;
    Ok(dataset.cast("images", Dtype::F32))
}

fn find(dir: &Path, name: &str) -> Result<PathBuf> {
    let plain = dir.join(name);
    let packed = dir.join(format!("{name}.gz"));
    [&plain, &packed].into_iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let message = format!("MNIST: neither {} nor {} is there", plain.display(), packed.display());
        Error::new(ErrorKind::NotFound, message)
    })
}
