//! Pictures.

use crate::{Error, ErrorKind, Result};
use tensorboard_proto::summary::{Summary_Image, Summary_Value};

/// A picture of 8-bit pixels, for TensorBoard's page of images: inputs after augmentation, filters, what a generator draws.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    channels: Channels,
    pixels: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channels {
    Gray = 1,
    Rgb = 3,
}

impl Image {
    /// Grey values row by row, 0 is black: `height` * `width` bytes. Fails with [`ErrorKind::InvalidArgument`] for any other number.
    pub fn gray(width: u32, height: u32, pixels: impl Into<Vec<u8>>) -> Result<Self> {
        Self::new(width, height, Channels::Gray, pixels.into())
    }

    /// Red, green and blue of one pixel after the other, row by row (HWC): `height` * `width` * 3 bytes. Fails with
    /// [`ErrorKind::InvalidArgument`] for any other number.
    pub fn rgb(width: u32, height: u32, pixels: impl Into<Vec<u8>>) -> Result<Self> {
        Self::new(width, height, Channels::Rgb, pixels.into())
    }

    /// Grey values as floats row by row, `low` is black and `high` is white; what lies outside is clipped, NaN is black. For
    /// weights and activations. Fails with [`ErrorKind::InvalidArgument`] if their number is not `height` * `width`.
    pub fn gray_f32(width: u32, height: u32, values: &[f32], low: f32, high: f32) -> Result<Self> {
        let scale = 255.0 / (high - low);
        // The conversion from float saturates, and takes NaN to 0.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let pixels: Vec<u8> = values.iter().map(|value| ((value - low) * scale).round() as u8).collect();
        Self::gray(width, height, pixels)
    }

    fn new(width: u32, height: u32, channels: Channels, pixels: Vec<u8>) -> Result<Self> {
        // The file format of PNG ends at 2^31 - 1.
        let sides = [width, height].iter().all(|side| (1..=0x7fff_ffff).contains(side));
        let expected = u128::from(width) * u128::from(height) * channels as u128;
        if !sides || pixels.len() as u128 != expected {
            let message = format!(
                "an image of {width} x {height} pixels with {} channels takes {expected} bytes, not {}",
                channels as u32,
                pixels.len()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self { width, height, channels, pixels })
    }

    /// The picture as a PNG file.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width, self.height);
        encoder.set_color(match self.channels {
            Channels::Gray => png::ColorType::Grayscale,
            Channels::Rgb => png::ColorType::Rgb,
        });
        encoder.set_depth(png::BitDepth::Eight);
        let failed = |error| Error::with_source(ErrorKind::InvalidArgument, "cannot encode an image as PNG", error);
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&self.pixels).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(bytes)
    }

    pub(super) fn value(&self) -> Result<Summary_Value> {
        let mut image = Summary_Image::new();
        // Not above 2^31 - 1, see `new`.
        image.set_width(i32::try_from(self.width).unwrap_or(i32::MAX));
        image.set_height(i32::try_from(self.height).unwrap_or(i32::MAX));
        image.set_colorspace(self.channels as i32);
        image.set_encoded_image_string(self.to_png()?);
        let mut value = Summary_Value::new();
        value.set_image(image);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(image: &Image) -> (png::OutputInfo, Vec<u8>) {
        let png = image.to_png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info, pixels)
    }

    #[test]
    fn pixels_survive() {
        let pixels: Vec<u8> = (0..5 * 3 * 3).collect();
        let (info, decoded) = decode(&Image::rgb(5, 3, pixels.clone()).unwrap());
        assert_eq!((info.width, info.height, info.color_type), (5, 3, png::ColorType::Rgb));
        assert_eq!(decoded, pixels);
        let (info, decoded) = decode(&Image::gray(5, 3, &pixels[..15]).unwrap());
        assert_eq!(info.color_type, png::ColorType::Grayscale);
        assert_eq!(decoded, &pixels[..15]);
    }

    #[test]
    fn floats_are_scaled_and_clipped() {
        let image = Image::gray_f32(5, 1, &[-1.0, 0.0, 0.5, 9.0, f32::NAN], 0.0, 1.0).unwrap();
        assert_eq!(image.pixels, [0, 0, 128, 255, 0]);
        assert!(Image::gray_f32(1, 1, &[1.0], 1.0, 1.0).is_ok());
    }

    #[test]
    fn a_wrong_number_of_bytes_is_an_error() {
        for (width, height, bytes) in [(2, 2, 3), (0, 0, 0), (u32::MAX, u32::MAX, 1), (0, 1, 0)] {
            let error = Image::gray(width, height, vec![0; bytes]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}
