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

/// @notice Most that a bid pays on one tier. `rate`: 1e-12 token per hour, all in; `egressGib`, `unit`: 1e-9 token.
struct TierLimit {
    bytes32 tier;
    uint64 rate;
    uint64 egressGib;
    uint64 unit;
}

/// @notice A provider's signed offer of one node. Sizes: thousandths of a GPU and of a core, MiB.
/// @dev `floor` is the price where no quote is given. `opener` zero: anyone may open.
/// `salt`: the order's number at its signer, by which it is cancelled.
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
    uint32 startLimitSeconds;
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
/// `salt`: the order's number at its signer, by which it opens once and is cancelled.
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
    address meter;
}

/// @notice One ask and one bid to open a lease from. `seat`: which of the bid's nodes, from 0. `quoteSignature` empty:
/// no quote.
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

/// @notice Final usage, cumulative, that meter and witness both sign. `ordersHash` proves the meter.
struct CloseData {
    address buyer;
    address provider;
    bytes16 leaseNo;
    bytes32 ordersHash;
    uint64 ms;
    uint32 egressMib;
    uint32 units;
}

/// @notice A lease by the orders that it was opened from: with the ask resent, all of it can be checked.
struct LeaseOrders {
    Ask ask;
    bytes32 bidHash;
    address buyer;
    address witness;
}

/// @notice A lease, unpacked. `released` and `locked`: atoms, fee included.
struct Lease {
    LeaseState state;
    bool hasCounted;
    uint64 rate;
    uint64 usedMs;
    uint40 start;
    uint40 end;
    uint32 fundedSeconds;
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

/// @title IEscrowBase
/// @notice What the escrow says: its events and errors.
interface IEscrowBase {
    /* EVENTS */

    event Deposited(address indexed account, uint256 amount);
    event Withdrawn(address indexed account, address indexed to, uint256 amount);

    /// @param rate 1e-12 token per hour.
    /// @param end First second after the funded time.
    /// @param locked Atoms reserved, counted resources included.
    /// @param bidSalt Nonce bit of the buyer; flipped by the bid's first lease, found flipped by later ones.
    event Opened(
        bytes16 indexed leaseNo,
        address indexed buyer,
        address indexed provider,
        address witness,
        address meter,
        bytes32 bidHash,
        bytes32 askHash,
        uint64 rate,
        uint32 gpuMilli,
        uint24 node,
        uint40 end,
        uint32 funded,
        uint256 locked,
        uint256 bidSalt
    );
    /// @notice Follows `Opened` where the bid caps counted resources above zero.
    event OpenedCounted(bytes16 indexed leaseNo, uint64 egressGib, uint64 unit, uint32 egressMibCap, uint32 unitsCap);

    /// @param entries Accepted ones, packed in 21 bytes each: leaseNo 16, cumulative ms 5 as stored.
    event Settled(address indexed provider, bytes entries);
    /// @param entries Accepted ones, packed in 29 bytes each: leaseNo 16, ms 5, egressMib 4, units 4, as stored.
    event SettledMetered(address indexed provider, bytes entries);

    /// @param unlocked Atoms that went back to the buyer's balance.
    event Stopped(
        bytes16 indexed leaseNo, address indexed buyer, address indexed provider, uint40 end, uint256 unlocked
    );

    /// @notice Precedes `Closed` where the lease has counted resources: what of them was used in the end.
    event ClosedCounted(bytes16 indexed leaseNo, uint32 egressMib, uint32 units);

    /// @param released Atoms earned over the lease's whole life, fee included.
    /// @param refunded Atoms that went back to the buyer's balance now.
    event Closed(
        bytes16 indexed leaseNo,
        address indexed buyer,
        address indexed provider,
        uint64 ms,
        uint256 released,
        uint256 refunded
    );

    /// @notice Follows `Opened` where the bid has several nodes.
    event OpenedSeat(bytes16 indexed leaseNo, bytes32 indexed bidHash, uint16 seat);

    /// @param end First second after the longer funded time.
    /// @param locked Atoms that left the buyer's balance for it.
    event ToppedUp(
        bytes16 indexed leaseNo, address indexed buyer, address indexed provider, uint40 end, uint256 locked
    );

    /// @notice The account's order of this number is void; where `andOlder`, all of lower numbers are, too.
    event OrderCancelled(address indexed account, uint64 salt, bool andOlder);

    event FeesCollected(address indexed provider, address indexed recipient, uint256 amount);

    /* ERRORS: what was expected comes first */

    // Deployment
    error TokenWithoutCode(address token);
    error DecimalsTooMany(uint256 most, uint256 decimals);
    error FeeTooHigh(uint256 most, uint256 feeBps);
    error FeeRecipientMissing(uint256 feeBps);
    error WindowOutOfBounds(uint256 least, uint256 most, uint256 windowSeconds);

    // Funds
    error ZeroAmount();
    error InvalidRecipient(address to);
    error InsufficientBalance(uint256 available, uint256 amount);
    error TransferMismatch(uint256 expectedHoldings, uint256 holdings);
    error HoldingsTooLarge(uint256 most, uint256 holdings);
    error PermitFailed(uint256 required, uint256 allowance);

    // Opening
    error NotOpener(address opener, address sender);
    error InvalidParty(address account);
    error OrderExpired(uint256 expiry, uint256 time);
    error AskNotStarted(uint256 startsAt, uint256 time);
    error FeeNotAccepted(uint256 most, uint256 feeBps);
    error SeatOutOfRange(uint256 nodes, uint256 seat);
    error SeatTaken(bytes32 bidHash, uint256 seat);
    error CancelledOrder(address account, uint256 salt);
    error InvalidGpuSize(uint256 gpuMilli);
    error ShareNotAccepted(uint256 askFlags, uint256 bidFlags);
    error SizeTooLarge(uint256 most, uint256 size);
    error UnitMismatch(bytes32 ask, bytes32 bid);
    error DurationTooLong(uint256 most, uint256 duration);
    error DurationTooShort(uint256 least, uint256 duration);
    error TooManyLimits(uint256 most, uint256 count);
    error TierNotInBid(bytes32 tier);
    error PriceAboveLimit(uint256 limit, uint256 price);
    error RateTooLarge(uint256 most, uint256 rate);
    error QuoteForOtherAsk(bytes32 askHash, bytes32 quoted);
    error QuoteBelowFloor(uint256 floor, uint256 price);
    error InvalidSignature(address signer);
    error LeaseExists(bytes16 leaseNo);
    error NonceUsed(address buyer, uint256 salt);
    error NotLatestLease(bytes16 latest, bytes16 leaseNo);
    error UnknownLease(bytes16 leaseNo);
    error LeaseRunning(uint256 end, uint256 time);
    error BudgetTooSmall(uint256 required, uint256 available);
    error NodeFull(uint256 free, uint256 gpuMilli);
    error BatchTooLarge(uint256 most, uint256 count);

    // Leases
    error MalformedEntries(uint256 offset);
    error LeaseNotActive(bytes16 leaseNo, LeaseState state);
    error LeaseNotOpen(bytes16 leaseNo, LeaseState state);
    error NotAParty(address sender);
    error NotMeter(address signer);
    error LeaseNotCounted(bytes16 leaseNo);
    error UsageBelowSettled(uint256 settled, uint256 given);
    error UsageAheadOfTime(uint256 elapsedMs, uint256 givenMs);
    error RefundTooEarly(uint256 after_, uint256 time);
    error LeaseEnded(uint256 end, uint256 time);
    error NotBuyer(address buyer, address sender);

    // The extension
    error NotTheEscrow(address escrow, address here);
    error SaltTooLarge(uint256 most, uint256 salt);
    error BidMismatch(bytes32 orders, bytes32 given);
}

/// @title IEscrowCore
/// @notice The escrow's own code: what is called often.
/// @dev A lease is named by (witness, buyer, provider, leaseNo); `leaseNo` is the first half of
/// keccak256(abi.encode(ordersHash, meter)), `ordersHash` keccak256(abi.encode(bidHash, askHash)). Amounts are atoms of the token. Payments round down, locks up.
///
/// Assumptions. Warning: where one is broken, so is what it holds up.
/// - The token moves exactly the amount asked for, or fails; its balances change by transfers alone. A token that
///   shrinks balances makes the escrow unable to pay all; one that takes a fee on transfer cannot be deposited.
/// - The token cannot stop transfers to an account other than the one it names. A payee that the token refuses
///   keeps its balance here and stops nobody else.
/// - `feeBps`, `feeRecipient` and `settleWindow` never change, and there is no owner.
/// - The witness key is honest towards the buyer: what it signs is paid, up to time elapsed and to the lock.
/// - The chain's timestamp is right to within seconds.
interface IEscrowCore is IEscrowBase {
    /* FUNDS */

    /// @notice Moves `amount` from the sender, which has approved it, to the sender's balance here.
    function deposit(uint256 amount) external;

    /// @notice As `deposit`, by an EIP-2612 permit of the sender. A permit that somebody else used first is no
    /// obstacle where the allowance suffices.
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Moves `amount` of the sender's free balance to `to`. No state of any lease stops this.
    function withdraw(address to, uint256 amount) external;

    /* LEASES */

    /// @notice Opens a lease from an ask and a bid that fit: reserves capacity, locks the most it may cost.
    /// @dev Orders are live up to and including `expiry`. Funded time is the bid's and the start allowance, less where
    /// the budget ends sooner. Parties that are contracts sign by ERC-1271, now and never again.
    /// @return leaseNo Number of the lease.
    function open(Match calldata order) external returns (bytes16 leaseNo);

    /// @notice As `open` for each, at most `MAX_OPENS`; all of them or none. For bids of several nodes.
    function openAll(Match[] calldata orders) external;

    /// @notice As `open` for each, at most `MAX_OPENS`; one that fails is skipped, whatever made it fail.
    /// @dev Warning: running out of gas is a failure too, so the least gas that does not revert, which nodes estimate,
    /// opens less than all. Send 600,000 for each.
    /// @return skipped Bit i (of byte i / 8, lowest first) is set where the i-th was skipped.
    function openBatch(Match[] calldata orders) external returns (bytes memory skipped);

    /// @notice Pays providers for witnessed time. Anyone may call.
    /// @dev `entries`: runs of provider 20 | count 2 | count × (buyer 20 | leaseNo 16 | ms 5 | r 32 | vs 32), at most
    /// `MAX_ENTRIES` in all; each signature is the witness's on `Usage`, compact (ERC-2098). An entry is skipped where
    /// it raises nothing, is ahead of the time since start, too late, or not signed by the witness of an open lease.
    /// Time above the funded is paid as the funded.
    /// @return skipped Bit i (of byte i / 8, lowest first) is set where the i-th entry was skipped.
    function settle(bytes calldata entries) external returns (bytes memory skipped);

    /// @notice As `settle`, for leases with counted resources.
    /// @dev An entry is buyer 20 | leaseNo 16 | ms 5 | egressMib 4 | units 4 | r 32 | vs 32, on `MeteredUsage`, at most
    /// `MAX_METERED`. Each figure counts where it is the highest so far; above its cap it is paid as the cap.
    function settleMetered(bytes calldata entries) external returns (bytes memory skipped);

    /// @notice Ends an active lease now, or leaves its end where it has passed. For buyer, provider and witness.
    /// What can no longer be used goes back to the buyer's balance.
    function stop(address buyer, address provider, address witness, bytes16 leaseNo) external;

    /// @notice As `stop`, by a `Stop` that the witness or the meter signed. Anyone may call.
    /// @param ordersHash Proves the meter; ignored where the witness signed.
    function stopBySignature(
        address buyer,
        address provider,
        address witness,
        bytes16 leaseNo,
        bytes32 ordersHash,
        bytes32 r,
        bytes32 vs
    ) external;

    /// @notice Ends a lease at usage that meter and witness agree on: pays it, returns the rest, frees the node.
    /// @dev Figures may not be below what was settled; time not ahead of the time since start. Above funded time or cap
    /// they are paid as that.
    function close(CloseData calldata data, bytes32 meterR, bytes32 meterVs, bytes32 witnessR, bytes32 witnessVs)
        external;

    /// @notice Closes a lease whose end is longer ago than the settle window: the rest goes back to the buyer. Anyone.
    function refund(address buyer, address provider, address witness, bytes16 leaseNo) external;

    /* VIEWS */

    function balanceOf(address account) external view returns (uint256);

    function domainSeparator() external view returns (bytes32);
    function token() external view returns (address);
    function feeBps() external view returns (uint256);
    function feeRecipient() external view returns (address);
    function settleWindow() external view returns (uint256);

    /// @return The contract whose code the escrow runs for `IEscrowExtension`.
    function extension() external view returns (address);
}

/// @title IEscrowExtension
/// @notice What is called seldom, and what only reads. The escrow runs it from the extension's code, on its own storage:
/// call it at the escrow's address.
interface IEscrowExtension is IEscrowBase {
    /* FUNDS */

    /// @notice Deposits by an EIP-3009 authorization that `from` signed for this escrow. Anyone may call; it is `from`'s
    /// balance that grows.
    function depositWithAuthorization(
        address from,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice Deposits by a Permit2 transfer that `from` signed for this escrow, whole. Anyone may call; it is `from`'s
    /// balance that grows.
    /// @dev Source: Uniswap's Permit2, `ISignatureTransfer`, at its one address on every chain.
    function depositWithPermit2(address from, uint256 amount, uint256 nonce, uint256 deadline, bytes calldata signature)
        external;

    /// @notice Moves the fees held on these providers' income to the fee recipient's balance. Anyone may call.
    function collectFees(address[] calldata providers) external;

    /* ORDERS */

    /// @notice Makes the account's order of this number void, bid or ask: no lease opens from it again. With `andOlder`,
    /// every order of a lower number as well. Leases that are open go on.
    /// @param signature The account's on `Cancel`, ERC-1271 included; ignored where the account itself calls.
    function cancel(address account, uint64 salt, bool andOlder, bytes calldata signature) external;

    /// @notice Extends an active lease by `seconds_` of funded time. For the buyer, before the end, up to the ask's
    /// longest time and its start allowance, and within what the bid's budget has left.
    /// @param bid The order that it was opened from, as `orders.bidHash` says.
    function topUp(LeaseOrders calldata orders, Bid calldata bid, uint16 seat, uint32 seconds_) external;

    /* VIEWS */

    /// @return Fees held on the provider's income, not yet collected.
    function feesOf(address provider) external view returns (uint256);

    /// @return Thousandths of GPUs that open leases hold on the node.
    function capacityUsed(address provider, uint24 node) external view returns (uint256);

    function lease(address buyer, address provider, address witness, bytes16 leaseNo)
        external
        view
        returns (Lease memory);

    function counted(address buyer, address provider, address witness, bytes16 leaseNo)
        external
        view
        returns (Counted memory);

    /// @return used Whether a bid of the account with this salt has opened.
    /// @return cancelled Whether the account cancelled its order of this salt, alone or with all older ones.
    function orderState(address account, uint64 salt) external view returns (bool used, bool cancelled);

    /// @return Lowest salt that the account's orders may have.
    function ordersFrom(address account) external view returns (uint64);

    /// @return latest Latest lease of a seat that had more than one, or whose bid has several nodes; else zero.
    /// @return spentBefore Atoms that the leases before it may have paid.
    function bidRecord(bytes32 bidHash, uint16 seat) external view returns (bytes16 latest, uint128 spentBefore);

    function hashAsk(Ask calldata ask) external pure returns (bytes32);
    function hashBid(Bid calldata bid) external pure returns (bytes32);
    function hashQuote(Quote calldata quote) external pure returns (bytes32);
    function leaseNoOf(bytes32 bidHash, bytes32 askHash, address meter) external pure returns (bytes16);

    /// @param rate 1e-12 token per hour.
    /// @return Atoms, rounded down.
    function cost(uint64 rate, uint64 ms) external view returns (uint256);
}

/// @title IComputeEscrow
/// @notice Holds buyers' tokens and releases them to providers on usage that the buyer's witness signed: all that can be
/// called at the escrow's address.
interface IComputeEscrow is IEscrowCore, IEscrowExtension {}
