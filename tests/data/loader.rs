//! The order of samples.

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
    let loader = Loader::new(10, 1, 3).unwrap();
    let dropped = (0..10_000).filter(|&i| loader.drops_caption(i, 0.1)).count();
    assert!((900..1100).contains(&dropped), "{dropped}");
    assert!(!(0..1000).any(|i| loader.drops_caption(i, 0.0)));
    assert!((0..1000).all(|i| loader.drops_caption(i, 1.0)));
}

#[test]
fn empty_datasets_and_batches_are_refused() {
    assert!(crate::message(Loader::new(0, 1, 0)).contains("0 training samples"));
    assert!(crate::message(Loader::new(1, 0, 0)).contains("batch-size is 0"));
}
