//! The cache of latents and text states.

use selma::data::latent_cache::{Key, LatentCache, Posterior, TextStates};
use selma::tensor::Tensor;

fn posterior() -> Posterior {
    let values = |start: i32| (start..start + 24).map(|v| v as f32 / 7.0).collect::<Vec<f32>>();
    Posterior { mean: Tensor::new(values(-9), &[2, 3, 4]), std: Tensor::new(values(3), &[2, 3, 4]) }
}

#[test]
fn entries_come_back_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let cache = LatentCache::open(dir.path()).unwrap();
    let key = Key::posterior(b"bytes", "center", "vae");
    assert!(cache.posterior(&key).unwrap().is_none());
    cache.put_posterior(&key, &posterior()).unwrap();
    let found = cache.posterior(&key).unwrap().unwrap();
    assert_eq!(found.mean.shape(), [2, 3, 4]);
    assert_eq!(found.mean.bytes(), posterior().mean.bytes());
    assert_eq!(found.std.bytes(), posterior().std.bytes());

    for pooled in [None, Some(Tensor::new(vec![1.0f32, 2.0], &[2]))] {
        let key = Key::text("a cat", if pooled.is_some() { "sdxl" } else { "sd1" });
        let context = Tensor::new(vec![0.5f32; 6], &[3, 2]);
        let states = TextStates { context, pooled };
        cache.put_text(&key, &states).unwrap();
        let found = cache.text(&key).unwrap().unwrap();
        assert_eq!(found.context.bytes(), states.context.bytes());
        assert_eq!(found.pooled.is_some(), states.pooled.is_some());
    }
    assert_eq!(cache.damaged(), 0);
}

#[test]
fn truncated_and_altered_entries_count_as_absent() {
    let dir = tempfile::tempdir().unwrap();
    let cache = LatentCache::open(dir.path()).unwrap();
    let key = Key::posterior(b"bytes", "center", "vae");
    cache.put_posterior(&key, &posterior()).unwrap();
    let path = cache.path(&key);
    let whole = std::fs::read(&path).unwrap();
    let mut broken: Vec<Vec<u8>> = [0, 4, 40, whole.len() - 1].iter().map(|&n| whole[..n].to_vec()).collect();
    for at in [9, whole.len() - 1, whole.len() - 150] {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        broken.push(altered);
    }
    for (i, bytes) in broken.iter().enumerate() {
        std::fs::write(&path, bytes).unwrap();
        assert!(cache.posterior(&key).unwrap().is_none(), "damage {i}");
        assert_eq!(cache.damaged(), i + 1);
    }
    cache.put_posterior(&key, &posterior()).unwrap();
    assert!(cache.posterior(&key).unwrap().is_some());
}

#[test]
fn an_entry_under_another_name_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let cache = LatentCache::open(dir.path()).unwrap();
    let [a, b] = [b"a", b"b"].map(|image| Key::posterior(image, "center", "vae"));
    cache.put_posterior(&a, &posterior()).unwrap();
    std::fs::create_dir_all(cache.path(&b).parent().unwrap()).unwrap();
    std::fs::copy(cache.path(&a), cache.path(&b)).unwrap();
    assert!(cache.posterior(&b).unwrap().is_none());
}

#[test]
fn keys_depend_on_every_part_and_on_where_parts_end() {
    let keys = [
        Key::posterior(b"ab", "c", "d"),
        Key::posterior(b"a", "bc", "d"),
        Key::posterior(b"ab", "c", "e"),
        Key::text("ab", "cd"),
        Key::text("abc", "d"),
    ];
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(key.as_str().len(), 64);
        assert!(!keys[..i].contains(key));
    }
}
