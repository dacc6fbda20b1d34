//! Bid requests as an ad exchange sends them, made up from a seed, and the bid responses that answer them.

use std::fmt::Write;

use fastrand::Rng;

const USER_AGENTS: [&str; 8] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 14; SM-S921B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.6723.107 Mobile Safari/537.36",
    "Mozilla/5.0 (Linux; Android 13; Pixel 7a) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.6778.39 Mobile Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36 Edg/130.0.0.0",
    "Mozilla/5.0 (Linux; Android 12; SM-A136U; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/129.0.6668.100 Mobile Safari/537.36",
];
const PLACES: [(&str, &str, &str, f64, f64, i32); 8] = [
    ("USA", "CA", "San Jose", 37.33, -121.88, -480),
    ("USA", "NY", "Brooklyn", 40.67, -73.94, -300),
    ("USA", "TX", "Austin", 30.26, -97.74, -360),
    ("GBR", "LND", "London", 51.50, -0.12, 0),
    ("DEU", "BE", "Berlin", 52.52, 13.40, 60),
    ("FRA", "IDF", "Paris", 48.85, 2.35, 60),
    ("CAN", "ON", "Toronto", 43.65, -79.38, -300),
    ("BRA", "SP", "Campinas", -22.90, -47.06, -180),
];
const SECTIONS: [&str; 8] = ["news", "sport", "weather", "recipes", "travel", "video", "reviews", "forum"];
const SIZES: [(u16, u16); 5] = [(300, 250), (728, 90), (320, 50), (160, 600), (970, 250)];
const EID_SOURCES: [&str; 4] = ["id5-sync.com", "pubcid.org", "criteo.com", "uidapi.com"];
const SITES: u32 = 400;
const ADVERTISERS: u32 = 600;

/// An endless supply of bid requests: the same seed gives the same ones.
#[derive(Debug)]
pub(super) struct Bids {
    rng: Rng,
}

impl Bids {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed) }
    }

    /// Writes the next request over `body` and returns its id.
    pub(super) fn next(&mut self, body: &mut String) -> String {
        body.clear();
        let id = self.uuid();
        let _ = self.write(body, &id);
        id
    }

    fn write(&mut self, out: &mut String, id: &str) -> std::fmt::Result {
        write!(out, r#"{{"id":"{id}","imp":["#)?;
        for number in 1..=self.rng.u8(1..=2) {
            if number > 1 {
                out.push(',');
            }
            self.write_imp(out, number)?;
        }
        out.push_str("],");
        self.write_site(out)?;
        self.write_device(out)?;
        self.write_user(out)?;
        write!(out, r#""at":{},"tmax":{},"cur":["USD"],"#, self.rng.u8(1..=2), [100, 120, 300][self.rng.usize(..3)])?;
        self.write_list(out, "bcat", 12, |rng| format!("IAB{}-{}", rng.u8(1..=25), rng.u8(1..=12)))?;
        self.write_list(out, "badv", 16, |rng| {
            let advertiser = rng.u32(..ADVERTISERS);
            format!("{:07x}.com", advertiser.wrapping_mul(0x9e37_79b1) >> 4)
        })?;
        let tid = self.uuid();
        let site = self.rng.u32(..SITES);
        write!(
            out,
            r#""source":{{"tid":"{tid}","ext":{{"schain":{{"ver":"1.0","complete":1,"nodes":[{{"asi":"exchange.example","sid":"pub{site}","hp":1}}]}}}}}},"regs":{{"coppa":0,"ext":{{"gdpr":{},"us_privacy":"1YNN"}}}}}}"#,
            self.rng.u8(..2),
        )
    }

    fn write_imp(&mut self, out: &mut String, number: u8) -> std::fmt::Result {
        let (w, h) = SIZES[self.rng.usize(..SIZES.len())];
        let slot = self.rng.u16(..900);
        let floor = f64::from(self.rng.u16(5..3_000)) / 1_000.0;
        write!(
            out,
            r#"{{"id":"{number}","banner":{{"format":[{{"w":{w},"h":{h}}}],"w":{w},"h":{h},"pos":{},"battr":[1,3,5,8,9,10,14],"api":[3,5,6]}},"displaymanager":"prebid","displaymanagerver":"8.34.0","instl":0,"tagid":"{}","bidfloor":{floor},"bidfloorcur":"USD","secure":1,"exp":300,"ext":{{"gpid":"/{}/home/{w}x{h}","data":{{"pbadslot":"slot-{slot}"}}}}}}"#,
            self.rng.u8(..4),
            10_000_000 + u32::from(slot),
            1_460_000 + u32::from(slot % 40),
        )
    }

    fn write_site(&mut self, out: &mut String) -> std::fmt::Result {
        // Few sites are most of the traffic.
        let site = self.rng.u32(..SITES).min(self.rng.u32(..SITES));
        let section = SECTIONS[self.rng.usize(..SECTIONS.len())];
        let page = self.rng.u32(..50_000);
        write!(
            out,
            r#""site":{{"id":"{}","domain":"site{site}.example","page":"https://site{site}.example/{section}/{page}-{:06x}","ref":"https://www.google.com/","cat":["IAB{}"],"publisher":{{"id":"pub{site}","name":"Publisher {site}"}},"mobile":{}}},"#,
            100_000 + site,
            page.wrapping_mul(0x9e37_79b1) >> 8,
            site % 25 + 1,
            self.rng.u8(..2),
        )
    }

    fn write_device(&mut self, out: &mut String) -> std::fmt::Result {
        let agent = USER_AGENTS[self.rng.usize(..USER_AGENTS.len())];
        let (country, region, city, lat, lon, offset) = PLACES[self.rng.usize(..PLACES.len())];
        let (lat, lon) = (lat + self.rng.f64() / 10.0, lon + self.rng.f64() / 10.0);
        write!(
            out,
            r#""device":{{"ua":"{agent}","ip":"{}.{}.{}.{}","language":"en","js":1,"dnt":0,"devicetype":{},"geo":{{"country":"{country}","region":"{region}","city":"{city}","lat":{lat:.4},"lon":{lon:.4},"type":2,"utcoffset":{offset}}},"connectiontype":{}}},"#,
            self.rng.u8(11..223),
            self.rng.u8(..),
            self.rng.u8(..),
            self.rng.u8(1..),
            self.rng.u8(1..6),
            self.rng.u8(..7),
        )
    }

    fn write_user(&mut self, out: &mut String) -> std::fmt::Result {
        let (id, buyer) = (self.uuid(), self.uuid());
        write!(out, r#""user":{{"id":"{id}","buyeruid":"{buyer}","ext":{{"consent":"CP{}","eids":["#, self.text(22))?;
        for number in 0..self.rng.usize(..3) {
            if number > 0 {
                out.push(',');
            }
            let source = EID_SOURCES[self.rng.usize(..EID_SOURCES.len())];
            write!(out, r#"{{"source":"{source}","uids":[{{"id":"{}","atype":1}}]}}"#, self.text(40))?;
        }
        out.push_str("]}},");
        Ok(())
    }

    fn write_list(
        &mut self,
        out: &mut String,
        name: &str,
        most: usize,
        item: impl Fn(&mut Rng) -> String,
    ) -> std::fmt::Result {
        write!(out, r#""{name}":["#)?;
        for number in 0..self.rng.usize(2..most) {
            let comma = if number > 0 { "," } else { "" };
            write!(out, r#"{comma}"{}""#, item(&mut self.rng))?;
        }
        out.push_str("],");
        Ok(())
    }

    fn uuid(&mut self) -> String {
        let (a, b) = (self.rng.u64(..), self.rng.u64(..));
        format!(
            "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
            a >> 32,
            a >> 16 & 0xffff,
            a & 0xfff,
            b >> 52,
            b & 0xffff_ffff_ffff
        )
    }

    fn text(&mut self, length: usize) -> String {
        (0..length).map(|_| self.rng.alphanumeric()).collect()
    }
}

/// The bid that answers a bid request: it names the request's id, and the sum of its bytes, which the caller checks.
pub(super) fn response(request: &[u8]) -> Option<String> {
    let id = between(request, br#"{"id":""#, b'"')?;
    let id = std::str::from_utf8(id).ok()?;
    let sum = checksum(request);
    let price = (sum % 4_000) as f64 / 1_000.0 + 0.05;
    let creative = sum % 90 + 10;
    Some(format!(
        r#"{{"id":"{id}","seatbid":[{{"bid":[{{"id":"{:08x}","impid":"1","price":{price:.3},"adid":"ad{creative}","adm":"<a href=\"https://click.example/c{creative}\"><img src=\"https://cdn.example/creatives/{creative}.webp\" width=\"300\" height=\"250\"></a>","adomain":["brand{creative}.example"],"cid":"{}","crid":"{creative}","w":300,"h":250}}],"seat":"seat{}"}}],"cur":"USD","ext":{{"sum":"{sum:016x}"}}}}"#,
        sum >> 32,
        sum % 50,
        sum % 7,
    ))
}

/// Whether `response` answers the request with this id and body.
pub(super) fn is_answer(response: &[u8], id: &str, request: &[u8]) -> bool {
    let ending = format!(r#""ext":{{"sum":"{:016x}"}}}}"#, checksum(request));
    between(response, br#"{"id":""#, b'"') == Some(id.as_bytes()) && response.ends_with(ending.as_bytes())
}

fn between<'a>(text: &'a [u8], start: &[u8], end: u8) -> Option<&'a [u8]> {
    let rest = text.strip_prefix(start)?;
    Some(&rest[..rest.iter().position(|&b| b == end)?])
}

/// FNV-1a: enough to tell requests apart.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &b| (sum ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_json_of_a_realistic_size() {
        let mut bids = Bids::new(1);
        let mut body = String::new();
        let mut total = 0;
        for _ in 0..500 {
            let id = bids.next(&mut body);
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(json["id"], id.as_str());
            assert!((900..3_000).contains(&body.len()), "{}", body.len());
            total += body.len();
        }
        assert!((1_000..2_000).contains(&(total / 500)), "{}", total / 500);
    }

    #[test]
    fn the_same_seed_gives_the_same_requests() {
        let (mut a, mut b) = (String::new(), String::new());
        let (mut left, mut right, mut other) = (Bids::new(7), Bids::new(7), Bids::new(8));
        for _ in 0..10 {
            left.next(&mut a);
            right.next(&mut b);
            assert_eq!(a, b);
            other.next(&mut b);
            assert_ne!(a, b);
        }
    }

    #[test]
    fn a_response_belongs_to_one_request() {
        let mut bids = Bids::new(1);
        let mut body = String::new();
        let id = bids.next(&mut body);
        let answer = response(body.as_bytes()).unwrap();
        serde_json::from_str::<serde_json::Value>(&answer).unwrap();
        assert!(is_answer(answer.as_bytes(), &id, body.as_bytes()));
        assert!(!is_answer(answer.as_bytes(), "other", body.as_bytes()));
        body.push(' ');
        assert!(!is_answer(answer.as_bytes(), &id, body.as_bytes()));
        assert_eq!(response(b"{}"), None);
    }
}
