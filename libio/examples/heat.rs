//! A two-dimensional heat equation that checkpoints and restarts: kill it whenever you like, start it again, and it goes on from the newest version, to the same
//! result. `heat.c` and `heat.py` are the same in C and Python, to the last bit: each goes on from what another wrote.
//!
//! `cargo run -p libio --example heat -- CLUSTER_FILE [STEPS [EVERY [SIDE]]]`

use std::path::Path;
use std::time::{Duration, Instant};

use libio::{Checkpoints, Error};

const ROOT: &str = "/checkpoints";
const SET: &str = "heat";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let cluster = args.first().ok_or("usage: heat CLUSTER_FILE [STEPS [EVERY [SIDE]]]")?;
    let number = |at: usize, usual: u64| args.get(at).map_or(Ok(usual), |text| text.parse());
    let (steps, every, side) = (number(1, 1000)?, number(2, 100)?, number(3, 512)? as usize);

    let client = fs_client::Client::connect(fs_client::ClientConfig::load(Path::new(cluster))?)?;
    let checkpoints = Checkpoints::open(client, ROOT)?;
    let (mut done, mut plate) = restart(&checkpoints, side)?;
    println!("starting at step {done}");
    let (mut next, mut blocked, began) = (plate.clone(), Duration::ZERO, Instant::now());
    while done < steps {
        step(&plate, &mut next, side);
        std::mem::swap(&mut plate, &mut next);
        done += 1;
        if every > 0 && done % every == 0 {
            let stopped = Instant::now();
            save(&checkpoints, done, &plate)?;
            // A server that is silent holds up pruning, and not the run.
            if let Err(error) = checkpoints.prune(SET, 2) {
                eprintln!("older versions stay for now: {error}");
            }
            blocked += stopped.elapsed();
            println!("saved {done}");
        }
    }
    println!(
        "ran {:.3} s, of which checkpoints {:.3} s",
        began.elapsed().as_secs_f64(),
        blocked.as_secs_f64()
    );
    println!("step {done}: {:.12} degrees on average, {:016x}", mean(&plate), digest(&plate));
    Ok(())
}

/// The newest version that can be read, or a cold plate with one hot edge. A version that cannot is not offered again.
fn restart(checkpoints: &Checkpoints, side: usize) -> Result<(u64, Vec<f64>), Failure> {
    let mut plate = vec![0.0; side * side];
    while let Some(version) = checkpoints.latest(SET)? {
        match load(checkpoints, version, &mut plate) {
            Ok(()) => return Ok((version, plate)),
            Err(e) => {
                eprintln!("version {version}: {e}");
                checkpoints.finish(SET, version, false)?;
            }
        }
    }
    plate.fill(0.0);
    plate[..side].fill(100.0);
    Ok((0, plate))
}

fn load(checkpoints: &Checkpoints, version: u64, plate: &mut [f64]) -> Result<(), Failure> {
    let snapshot = checkpoints.snapshot(SET, version)?;
    let mut bytes = vec![0; size_of_val(plate)];
    if snapshot.size("plate")? != bytes.len() as u64 {
        return Err("it is of a plate of another size".into());
    }
    snapshot.read("plate", 0, &mut bytes)?;
    let (numbers, _) = bytes.as_chunks();
    for (cell, number) in plate.iter_mut().zip(numbers) {
        *cell = f64::from_le_bytes(*number);
    }
    Ok(())
}

fn save(checkpoints: &Checkpoints, version: u64, plate: &[f64]) -> Result<(), Failure> {
    let bytes: Vec<u8> = plate.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut writer = match checkpoints.begin(SET, version, 0, 1) {
        // Of a run before, and not offered: damaged, or a restart from it failed. The next one will do.
        Err(Error::VersionExists { .. }) => return Ok(()),
        begun => begun?,
    };
    writer.write("plate", &bytes, 0)?;
    Ok(writer.commit(true)?)
}

/// The border keeps its temperature.
fn step(old: &[f64], new: &mut [f64], side: usize) {
    for row in 1..side - 1 {
        for at in row * side + 1..(row + 1) * side - 1 {
            let around = old[at - side] + old[at + side] + old[at - 1] + old[at + 1];
            new[at] = old[at] + 0.2 * (around - 4.0 * old[at]);
        }
    }
}

fn mean(plate: &[f64]) -> f64 {
    plate.iter().sum::<f64>() / plate.len() as f64
}

/// All bits of all cells (FNV-1a over 64-bit words).
fn digest(plate: &[f64]) -> u64 {
    plate
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, cell| (hash ^ cell.to_bits()).wrapping_mul(0x0100_0000_01b3))
}
