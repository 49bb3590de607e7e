//! The order of samples.

use std::collections::BTreeSet;

use selma::data::dataset::Variation;
use selma::data::loader::{Item, Loader};

#[test]
fn a_resumed_run_sees_the_batches_of_an_unbroken_one() {
    let mut whole = Loader::new(7, 3, 42).unwrap();
    let batches: Vec<Vec<Item>> = (0..20).map(|i| whole.batch(i)).collect();
    for start in [0, 1, 5, 13] {
        let mut resumed = Loader::new(7, 3, 42).unwrap();
        for (i, batch) in batches.iter().enumerate().skip(start) {
            assert_eq!(&resumed.batch(i as u64), batch);
        }
    }
}

#[test]
fn every_epoch_holds_each_sample_once_in_another_order() {
    let mut loader = Loader::new(50, 8, 1).unwrap();
    let mut orders = Vec::new();
    for epoch in 0..3 {
        let items: Vec<Item> = (0..50).map(|i| loader.item(epoch * 50 + i)).collect();
        assert!(items.iter().all(|item| item.epoch == epoch));
        let order: Vec<usize> = items.iter().map(|item| item.index).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        orders.push(order);
    }
    assert_ne!(orders[0], orders[1]);
    assert_ne!(orders[1], orders[2]);
    let mut other = Loader::new(50, 8, 2).unwrap();
    assert_ne!((0..50).map(|i| other.item(i).index).collect::<Vec<_>>(), orders[0]);
}

#[test]
fn batches_larger_than_the_dataset_are_full() {
    let batch = Loader::new(2, 5, 0).unwrap().batch(0);
    assert_eq!(batch.iter().map(|item| item.epoch).collect::<Vec<_>>(), [0, 0, 1, 1, 2]);
}

#[test]
fn captions_drop_as_often_as_asked() {
    let drops = |dropout: f64| Variation { dropout, ..Variation::default() };
    let dropped = |dropout: f64, visits| (0..visits).filter(|&i| drops(dropout).at("a", 3, i).is_empty()).count();
    assert!((900..1100).contains(&dropped(0.1, 10_000)));
    assert_eq!((dropped(0.0, 1000), dropped(1.0, 1000)), (0, 1000));
}

#[test]
fn tags_are_shuffled_behind_those_that_are_kept() {
    let shuffled = Variation { shuffle: true, keep_tokens: 1, ..Variation::default() };
    let forms: BTreeSet<String> = (0..200).map(|i| shuffled.at("cat, red,  big , old", 1, i)).collect();
    // All orders of three tags behind the first.
    assert_eq!(forms.len(), 6, "{forms:?}");
    assert!(forms.iter().all(|form| form.starts_with("cat, ") && form.split(", ").count() == 4), "{forms:?}");
    assert_eq!(shuffled.at("cat, red, big", 1, 7), shuffled.at("cat, red, big", 1, 7));
    let fewer = Variation { tag_dropout: 0.25, keep_tokens: 1, ..Variation::default() };
    let kept: usize = (0..4000).map(|i| fewer.at("cat, a, b, c, d", 1, i).split(", ").count() - 1).sum();
    // Four free tags a visit: 12000 of 16000 are expected, with a standard deviation of 55.
    assert!((11_780..12_220).contains(&kept), "{kept}");
    let framed = Variation { prefix: "photo of".into(), suffix: "x".into(), ..Variation::default() };
    assert_eq!(framed.at("a cat", 1, 0), "photo of a cat x");
}

#[test]
fn batches_are_of_one_bucket_and_use_every_image_equally_often() {
    let buckets = vec![(0..5).collect(), (5..7).collect(), vec![7]];
    let new = || Loader::with_buckets(buckets.clone(), 3, 11).unwrap();
    let mut loader = new();
    let bucket = |item: &Item| [4, 6, 7].iter().position(|&last| item.index <= last).unwrap();
    let mut visits = [0; 8];
    let mut numbers = Vec::new();
    // 30 epochs of 8 images in batches of 3.
    for number in 0..80 {
        let batch = loader.batch(number);
        assert!(batch.len() == 3 && batch.iter().all(|item| bucket(item) == bucket(&batch[0])), "{batch:?}");
        batch.iter().for_each(|item| visits[item.index] += 1);
        numbers.push(batch);
    }
    assert_eq!(visits, [30; 8]);
    // Nothing is stored: any batch can be asked for first.
    for number in [79, 0, 41, 40, 7] {
        assert_eq!(new().batch(number as u64), numbers[number]);
    }
    let order: Vec<usize> = numbers.iter().map(|batch| bucket(&batch[0])).collect();
    assert!(order.windows(2).any(|two| two[0] > two[1]), "{order:?}");
}

#[test]
fn empty_datasets_and_batches_are_refused() {
    assert!(crate::message(Loader::new(0, 1, 0)).contains("0 training samples"));
    assert!(crate::message(Loader::new(1, 0, 0)).contains("batch-size is 0"));
}
