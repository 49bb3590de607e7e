//! Decoding, resizing, cropping, and the way back.

use std::path::Path;

use image::{Rgb, RgbImage};
use selma::data::preprocess::{Crop, Preprocess};
use selma::formats::image::{decode, from_tensor, to_tensor};
use selma::formats::png;
use selma::tensor::Tensor;

const PREPROCESS: Preprocess = Preprocess { width: 16, height: 16, crop: Crop::Random, flip: true };

fn gradient(w: u32, h: u32) -> RgbImage {
    RgbImage::from_fn(w, h, |x, y| Rgb([(x * 255 / w) as u8, (y * 255 / h) as u8, 99]))
}

#[test]
fn crop_boxes_depend_on_seed_index_and_epoch_alone() {
    let crop_box = |seed, index, epoch| PREPROCESS.crop_box((40, 100), seed, index, epoch).unwrap();
    assert_eq!(crop_box(1, 2, 3), crop_box(1, 2, 3));
    let many: Vec<_> = (0..200).map(|i| crop_box(1, i, 0)).collect();
    assert!(many.iter().any(|p| p.flipped) && many.iter().any(|p| !p.flipped));
    assert!(many.iter().any(|p| p.crop.1 == 0) && many.iter().any(|p| p.crop.1 == 24));
    assert!(many.iter().all(|p| p.resized == (16, 40) && p.crop.0 == 0));
    assert!((0..200).any(|i| crop_box(1, i, 1) != many[i as usize]));
}

#[test]
fn a_crop_keeps_its_place_in_the_image() {
    let center = Preprocess { crop: Crop::Center, flip: false, ..PREPROCESS };
    let image = gradient(48, 32);
    let crop_box = center.crop_box((32, 48), 0, 0, 0).unwrap();
    assert_eq!((crop_box.resized, crop_box.crop), ((16, 24), (0, 4)));
    let x = crop_box.apply(&image);
    assert_eq!(x.shape(), [16, 16, 3]);
    let red = |x: &Tensor, column: usize| x.data::<f32>()[(8 * 16 + column) * 3];
    assert!((red(&x, 8) - (12.5 / 24.0 * 2.0 - 1.0)).abs() < 0.04);
    let mut mirrored = crop_box;
    mirrored.flipped = true;
    assert_eq!(red(&mirrored.apply(&image), 15), red(&x, 0));
    assert_eq!(crop_box.time_ids(), [32.0, 48.0, 0.0, 4.0, 16.0, 16.0]);
    assert_ne!(mirrored.content(), crop_box.content());
}

#[test]
fn every_shape_covers_the_target() {
    for (h, w) in [(1, 1), (16, 16), (17, 16), (15, 31), (512, 3), (1000, 999)] {
        let crop_box = PREPROCESS.crop_box((h, w), 5, 6, 7).unwrap();
        assert_eq!(crop_box.apply(&gradient(w, h)).shape(), [16, 16, 3], "{h}x{w}");
    }
    assert!(crate::message(PREPROCESS.crop_box((0, 4), 0, 0, 0)).contains("4x0"));
    assert!(crate::message(PREPROCESS.crop_box((1, 30_000), 0, 0, 0)).contains("too narrow"));
}

#[test]
fn images_survive_the_way_to_values_and_back() {
    let image = gradient(20, 12);
    let bytes = png::encode(&image, None).unwrap();
    assert_eq!(bytes, png::encode(&image, None).unwrap());
    assert_eq!(decode(&bytes, Path::new("p.png")).unwrap(), image);
    assert_eq!(from_tensor(&to_tensor(&image)).unwrap(), [image]);
    let wild = Tensor::new(vec![f32::NAN, 2.0, -7.0], &[1, 1, 1, 3]);
    assert_eq!(from_tensor(&wild).unwrap()[0].as_raw(), &[0, 255, 0]);
    assert!(from_tensor(&Tensor::new(vec![0.0f32; 4], &[1, 1, 4])).is_err());
}

#[test]
fn damaged_images_are_named() {
    let whole = png::encode(&gradient(64, 64), None).unwrap();
    for bytes in [&[][..], b"GIF89a", &whole[..20], &whole[..whole.len() / 2]] {
        let message = crate::message(decode(bytes, Path::new("set/broken.png")));
        assert!(message.starts_with("set/broken.png: not a readable image"), "{message}");
    }
    let mut huge = whole.clone();
    huge[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    assert!(decode(&huge, Path::new("huge.png")).is_err());
}

/// A header alone: nothing is taken before it is refused.
#[test]
fn images_that_would_take_too_much_memory_are_refused_by_their_header() {
    for (side, sound) in [(20_000, false), (18_000, true)] {
        let mut bytes = Vec::new();
        let mut encoder = ::png::Encoder::new(&mut bytes, side, side);
        encoder.set_color(::png::ColorType::Rgb);
        let mut writer = encoder.write_header().unwrap();
        writer.write_chunk(::png::chunk::IDAT, b"").unwrap();
        drop(writer);
        let size = selma::formats::image::size(&bytes, Path::new("vast.png"));
        if sound {
            assert_eq!(size.unwrap(), (side, side));
            continue;
        }
        let message = crate::message(size);
        // 20000 x 20000 x 3 bytes.
        assert!(message.contains("vast.png") && message.contains("20000x20000 pixels take 1.1 GiB"), "{message}");
    }
}
