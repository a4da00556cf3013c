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
/// @dev `floor` is the price if no quote is given. If `opener` is zero, anyone may open.
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

/// @notice Final cumulative usage, signed by meter and witness. `ordersHash` proves who the meter is.
struct CloseData {
    address buyer;
    address provider;
    bytes16 leaseNo;
    bytes32 ordersHash;
    uint64 ms;
    uint32 egressMib;
    uint32 units;
}

/// @notice A lease, named by the orders that it was opened from. The ask is sent again so that the escrow can check it.
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
/// @notice The escrow's events and errors.
interface IEscrowBase {
    /* EVENTS */

    event Deposited(address indexed account, uint256 amount);
    event Withdrawn(address indexed account, address indexed to, uint256 amount);

    /// @param rate 1e-12 token per hour.
    /// @param end First second after the funded time.
    /// @param locked Atoms reserved, counted resources included.
    /// @param bidSalt Number of the bid. The bid's first lease marks it as used; later leases of the bid find it marked.
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
    /// @notice Follows `Opened` if the bid caps counted resources above zero.
    event OpenedCounted(bytes16 indexed leaseNo, uint64 egressGib, uint64 unit, uint32 egressMibCap, uint32 unitsCap);

    /// @param entries The accepted entries, packed in 21 bytes each: leaseNo 16, cumulative ms 5 as stored.
    event Settled(address indexed provider, bytes entries);
    /// @param entries The accepted entries, packed in 29 bytes each: leaseNo 16, ms 5, egressMib 4, units 4, as stored.
    event SettledMetered(address indexed provider, bytes entries);

    /// @param unlocked Atoms that went back to the buyer's balance.
    event Stopped(
        bytes16 indexed leaseNo, address indexed buyer, address indexed provider, uint40 end, uint256 unlocked
    );

    /// @notice Precedes `Closed` if the lease has counted resources: their final usage.
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

    /// @notice Follows `Opened` if the bid has several nodes.
    event OpenedSeat(bytes16 indexed leaseNo, bytes32 indexed bidHash, uint16 seat);

    /// @param end First second after the extended funded time.
    /// @param locked Atoms that left the buyer's balance for the extension.
    event ToppedUp(
        bytes16 indexed leaseNo, address indexed buyer, address indexed provider, uint40 end, uint256 locked
    );

    /// @notice The account's order with this number is void. If `andOlder`, so are all its orders with lower numbers.
    event OrderCancelled(address indexed account, uint64 salt, bool andOlder);

    event FeesCollected(address indexed provider, address indexed recipient, uint256 amount);

    /* ERRORS: the expected value comes first */

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
/// @notice The functions in the escrow's own code: those called often.
/// @dev A lease is named by (witness, buyer, provider, leaseNo); `leaseNo` is the first half of
/// keccak256(abi.encode(ordersHash, meter)), `ordersHash` keccak256(abi.encode(bidHash, askHash)). Amounts are atoms of the token. Payments round down, locks up.
///
/// Assumptions. Warning: if one of them is broken, what depends on it breaks too.
/// - The token moves exactly the amount asked for, or fails, and its balances change only by transfers. If a token
///   shrinks balances, the escrow cannot pay everybody. A token that takes a fee on transfer cannot be deposited.
/// - If the token refuses to pay an account, it affects only that account. The payee keeps its balance in the escrow,
///   and nobody else is affected.
/// - `feeBps`, `feeRecipient` and `settleWindow` never change, and there is no owner.
/// - The witness key is honest towards the buyer: what it signs is paid, up to the time elapsed and the lock.
/// - The chain's timestamp is right to within seconds.
interface IEscrowCore is IEscrowBase {
    /* FUNDS */

    /// @notice Moves `amount` from the sender, who has approved it, to the sender's balance in the escrow.
    function deposit(uint256 amount) external;

    /// @notice As `deposit`, by an EIP-2612 permit of the sender. If somebody else submits the permit first, the deposit
    /// still works as long as the allowance suffices.
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Moves `amount` of the sender's free balance to `to`. No state of any lease stops this.
    function withdraw(address to, uint256 amount) external;

    /* LEASES */

    /// @notice Opens a lease from an ask and a bid that fit: reserves capacity and locks the most that it may cost.
    /// @dev Orders are live up to and including `expiry`. Funded time is the bid's time plus the ask's start limit, or
    /// less if the budget ends sooner. The signatures of contracts (ERC-1271) are checked only now, never again.
    /// @return leaseNo Number of the lease.
    function open(Match calldata order) external returns (bytes16 leaseNo);

    /// @notice As `open` for each of at most `MAX_OPENS` items, all or none. For bids of several nodes.
    function openAll(Match[] calldata orders) external;

    /// @notice As `open` for each of at most `MAX_OPENS` items. An item that fails for any reason is skipped.
    /// @dev Warning: an item that runs out of gas is skipped too, so the least gas that does not revert, which nodes
    /// estimate, does not open all items. Send 600,000 gas for each.
    /// @return skipped Bit i (of byte i / 8, lowest first) is set if item i was skipped.
    function openBatch(Match[] calldata orders) external returns (bytes memory skipped);

    /// @notice Pays providers for witnessed time. Anyone may call.
    /// @dev `entries`: runs of provider 20 | count 2 | count × (buyer 20 | leaseNo 16 | ms 5 | r 32 | vs 32), at most
    /// `MAX_ENTRIES` in all; each signature is the witness's on `Usage`, compact (ERC-2098). An entry is skipped if it
    /// raises nothing, is ahead of the time since start, is too late, or is not signed by the witness of an open lease.
    /// Time beyond the funded time is not paid.
    /// @return skipped Bit i (of byte i / 8, lowest first) is set if entry i was skipped.
    function settle(bytes calldata entries) external returns (bytes memory skipped);

    /// @notice As `settle`, for leases with counted resources.
    /// @dev An entry is buyer 20 | leaseNo 16 | ms 5 | egressMib 4 | units 4 | r 32 | vs 32, on `MeteredUsage`, at most
    /// `MAX_METERED`. Each figure counts only if it is the highest so far; beyond its cap nothing is paid.
    function settleMetered(bytes calldata entries) external returns (bytes memory skipped);

    /// @notice Stops an active lease: it ends now, unless its end has passed. For buyer, provider and witness.
    /// The lock of time that can no longer be used goes back to the buyer's balance.
    function stop(address buyer, address provider, address witness, bytes16 leaseNo) external;

    /// @notice As `stop`, by a `Stop` that the witness or the meter signed. Anyone may call.
    /// @param ordersHash Proves who the meter is; ignored if the witness signed.
    function stopBySignature(
        address buyer,
        address provider,
        address witness,
        bytes16 leaseNo,
        bytes32 ordersHash,
        bytes32 r,
        bytes32 vs
    ) external;

    /// @notice Closes a lease at final usage that meter and witness both signed: pays it, returns the rest to the buyer
    /// and frees the node.
    /// @dev No figure may be below what was settled, and time may not be ahead of the time since start. Nothing is paid
    /// beyond the funded time or a cap.
    function close(CloseData calldata data, bytes32 meterR, bytes32 meterVs, bytes32 witnessR, bytes32 witnessVs)
        external;

    /// @notice Closes a lease after its end and the settle window: the rest goes back to the buyer. Anyone may call.
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
/// @notice The functions called seldom, and those that only read. The escrow runs the extension's code on its own
/// storage: call them at the escrow's address.
interface IEscrowExtension is IEscrowBase {
    /* FUNDS */

    /// @notice Deposits by an EIP-3009 authorization that `from` signed for this escrow. Anyone may call; the deposit goes
    /// to `from`'s balance.
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

    /// @notice Deposits the whole amount of a Permit2 transfer that `from` signed for this escrow. Anyone may call; the
    /// deposit goes to `from`'s balance.
    /// @dev Source: Uniswap's Permit2, `ISignatureTransfer`, at its one address on every chain.
    function depositWithPermit2(address from, uint256 amount, uint256 nonce, uint256 deadline, bytes calldata signature)
        external;

    /// @notice Moves the fees on these providers' income to the fee recipient's balance. Anyone may call.
    function collectFees(address[] calldata providers) external;

    /* ORDERS */

    /// @notice Cancels the account's order with this number, bid or ask: no lease opens from it again. With `andOlder`,
    /// also cancels every order with a lower number. Open leases continue.
    /// @param signature The account's signature of `Cancel`, ERC-1271 included; ignored if the account itself calls.
    function cancel(address account, uint64 salt, bool andOlder, bytes calldata signature) external;

    /// @notice Extends an active lease by `seconds_` of funded time. For the buyer, before the end, up to the ask's
    /// longest time plus its start limit, and within what is left of the bid's budget.
    /// @param bid The bid that the lease was opened from; its hash is `orders.bidHash`.
    function topUp(LeaseOrders calldata orders, Bid calldata bid, uint16 seat, uint32 seconds_) external;

    /* VIEWS */

    /// @return Fees on the provider's income that are not yet collected.
    function feesOf(address provider) external view returns (uint256);

    /// @return Thousandths of GPUs that open leases occupy on the node.
    function capacityUsed(address provider, uint24 node) external view returns (uint256);

    function lease(address buyer, address provider, address witness, bytes16 leaseNo)
        external
        view
        returns (Lease memory);

    function counted(address buyer, address provider, address witness, bytes16 leaseNo)
        external
        view
        returns (Counted memory);

    /// @return used Whether a bid of the account with this salt has opened a lease.
    /// @return cancelled Whether the account cancelled its order with this salt, alone or with all older ones.
    function orderState(address account, uint64 salt) external view returns (bool used, bool cancelled);

    /// @return Lowest salt that the account's orders may have.
    function ordersFrom(address account) external view returns (uint64);

    /// @return latest The seat's latest lease, if the seat had more than one lease or the bid has several nodes; else zero.
    /// @return spentBefore Atoms that the seat's earlier leases may have paid.
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
/// @notice Holds buyers' tokens and releases them to providers for usage that the buyer's witness signed: everything that
/// can be called at the escrow's address.
interface IComputeEscrow is IEscrowCore, IEscrowExtension {}
