//! Aspect-ratio buckets against sd-scripts' `BucketManager` (`tests/generate_fixtures/buckets.py`).

use selma::data::buckets::{Buckets, Fit};

#[test]
fn images_get_the_sizes_that_kohyas_scripts_give_them() {
    let table = include_str!("buckets.tsv");
    let mut compared = 0;
    for line in table.lines().skip(1) {
        let n: Vec<u32> = line.split('\t').map(|number| number.parse().unwrap()).collect();
        let [side, steps, upscale, w, h, resized_w, resized_h, bucket_w, bucket_h] = n[..] else {
            panic!("{line}");
        };
        let buckets = Buckets::new(side, steps, upscale == 1, 256, (2 * side).max(1024));
        let expected = Fit { resized: (resized_w, resized_h), bucket: (bucket_w, bucket_h) };
        assert_eq!(buckets.fit((w, h)), Some(expected), "{line}");
        compared += 1;
    }
    assert_eq!(compared, 102);
    assert_eq!(Buckets::new(512, 64, false, 256, 1024).fit((63, 400)), None);
}
