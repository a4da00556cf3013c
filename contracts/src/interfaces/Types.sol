// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @notice What a lease is. `Closed` is final.
enum LeaseState {
    None,
    Active,
    Stopped,
    Closed
}

/// @notice Prices of whole resources, in 1e-9 token: four per hour, then per GiB out and per unit.
struct Prices {
    uint64 gpuHour;
    uint64 cpuHour;
    uint64 memoryGibHour;
    uint64 storageGibHour;
    uint64 egressGib;
    uint64 unit;
}

/// @notice The most that a bid pays on one tier. `rate`: 1e-12 token per hour, all resources; `egressGib`, `unit`: 1e-9 token.
struct TierLimit {
    bytes32 tier;
    uint64 rate;
    uint64 egressGib;
    uint64 unit;
}

/// @notice A provider's signed offer of one node. Sizes: thousandths of a GPU and of a core, MiB.
/// @dev `floor` is the price if no quote is given. If `opener` is zero, anyone may open. `startLimitSeconds`: the longest
/// time from opening to the first usage. `noticeSeconds`: how long before it takes the node back an interruptible offer
/// says so; only its reputation answers for that. `flags`: 1 shares of a GPU, 2 no GPU, 4 interruptible.
/// `salt` numbers the signer's orders; an order is cancelled by this number.
struct Ask {
    address provider;
    address meter;
    address opener;
    uint24 node;
    bytes32 tier;
    uint32 gpuMilli;
    uint32 cpuMilli;
    uint32 memoryMib;
    uint32 storageMib;
    Prices floor;
    uint32 minSeconds;
    uint32 maxSeconds;
    uint16 startLimitSeconds;
    uint16 noticeSeconds;
    bytes32 unit;
    uint40 startsAt;
    uint16 flags;
    uint16 maxFeeBps;
    uint40 expiry;
    uint64 salt;
}

/// @notice Prices above an ask's floor, signed by its meter.
struct Quote {
    bytes32 askHash;
    Prices prices;
    uint40 expiry;
}

/// @notice A buyer's signed order. `budget`: atoms, over every lease the bid opens; `nodes` seats share it equally.
/// `maxSeconds`: of paid time. `maxStartSeconds`: the longest start limit accepted; that time is neither locked nor paid.
/// `minNoticeSeconds`: the shortest notice accepted of an interruptible ask. `flags`: as an ask's, what the buyer accepts.
/// `salt` numbers the signer's orders; a bid opens once per number, and is cancelled by it.
struct Bid {
    address buyer;
    address witness;
    address opener;
    bytes32 jobHash;
    TierLimit[] limits;
    uint32 gpuMilli;
    uint32 cpuMilli;
    uint32 memoryMib;
    uint32 storageMib;
    uint32 egressMib;
    uint32 units;
    bytes32 unit;
    uint32 maxSeconds;
    uint16 maxStartSeconds;
    uint16 minNoticeSeconds;
    uint128 budget;
    uint16 nodes;
    uint16 flags;
    uint16 maxFeeBps;
    uint40 expiry;
    uint64 salt;
}

/// @notice The lease that a bid's seat had before; all zero on its first open.
struct Previous {
    address provider;
    bytes32 askHash;
    bytes32 pricesHash;
    address meter;
}

/// @notice One ask and one bid to open a lease from. `seat`: which of the bid's nodes, from 0. An empty `quoteSignature`
/// means that there is no quote.
struct Match {
    Ask ask;
    Bid bid;
    Quote quote;
    Previous previous;
    uint16 seat;
    bytes askSignature;
    bytes bidSignature;
    bytes quoteSignature;
}

/// @notice What names a lease.
struct LeaseKey {
    address buyer;
    address provider;
    address witness;
    bytes16 leaseNo;
}

/// @notice Final cumulative usage, signed by meter and witness. `again`: whether the bid's seat may open once more.
/// `termsHash` proves who the meter is.
struct CloseData {
    address buyer;
    address provider;
    bytes16 leaseNo;
    uint64 ms;
    uint32 egressMib;
    uint32 units;
    bool again;
    bytes32 termsHash;
}

/// @notice How a call that an account signed is relayed. `salt` numbers the account's calls, apart from its orders.
/// `relayer`: who may send it, zero for anyone. `fee`: atoms, to the sender's balance.
struct Relay {
    uint64 salt;
    uint40 deadline;
    address relayer;
    uint96 fee;
}

/// @notice What an account numbers and cancels apart: its orders; the calls that it signed for others to send.
enum Numbered {
    Orders,
    Calls
}

/// @notice Terms of a lease at its opening. `rate`: 1e-12 token per hour. `end`: first second after the funded time.
/// `funded`: seconds from start to end, of which the last `startSeconds` only make up for a late start: they are neither
/// locked nor paid. `locked`: atoms reserved, counted resources included. `bidSalt`: number of the bid, which its first
/// lease marks as used.
struct LeaseTerms {
    address witness;
    address meter;
    bytes32 bidHash;
    bytes32 askHash;
    bytes32 pricesHash;
    uint64 rate;
    uint32 gpuMilli;
    uint24 node;
    uint16 seat;
    uint40 end;
    uint32 funded;
    uint16 startSeconds;
    uint256 locked;
    uint64 bidSalt;
}

/// @notice An account without a key, whose `operator` signs bids for it until `expiry`, inclusive. Its `owner` funds it and
/// takes back what is free.
struct Purse {
    address owner;
    uint40 expiry;
    address operator;
}

/// @notice A lease, unpacked. `released` and `locked`: atoms, fee included.
/// `startSeconds`: part of the funded time that is not paid. `again`: whether the bid's seat may open once more.
struct Lease {
    LeaseState state;
    bool hasCounted;
    bool again;
    uint64 rate;
    uint64 usedMs;
    uint40 start;
    uint40 end;
    uint32 fundedSeconds;
    uint16 startSeconds;
    uint32 gpuMilli;
    uint24 node;
    uint256 released;
    uint256 locked;
}

/// @notice A lease's counted resources, unpacked. Prices: 1e-9 token per GiB and per unit.
struct Counted {
    uint64 egressGib;
    uint64 unit;
    uint32 egressMib;
    uint32 units;
    uint32 egressMibCap;
    uint32 unitsCap;
}

/// @notice Everything that is fixed when an escrow is deployed.
/// @dev `token`: at most 18 decimals. `feeBps`: part of providers' income held for the fee recipient, at most 1000.
/// `settleWindow`: seconds after a lease's end in which usage is still settled.
struct Terms {
    address token;
    uint256 feeBps;
    address feeRecipient;
    uint256 settleWindow;
}
