// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Ask,
    Bid,
    CloseData,
    Counted,
    Lease,
    LeaseKey,
    LeaseState,
    LeaseTerms,
    Match,
    Numbered,
    Previous,
    Prices,
    Purse,
    Quote,
    Relay,
    Terms,
    TierLimit
} from "./Types.sol";

/// @title IEscrowBase
/// @notice The escrow's events and errors.
interface IEscrowBase {
    /* EVENTS */

    event Deposited(address indexed account, uint256 amount);
    event Withdrawn(address indexed account, address indexed to, uint256 amount);

    event Opened(bytes16 indexed leaseNo, address indexed buyer, address indexed provider, LeaseTerms terms);
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

    /// @notice The bid's seat may open once more: the buyer's side said so. Follows `Stopped` or `Closed`, or stands alone.
    event MarkedAgain(bytes16 indexed leaseNo, address indexed buyer, address indexed provider);

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

    /// @param end First second after the extended funded time.
    /// @param locked Atoms that left the buyer's balance for the extension.
    event ToppedUp(
        bytes16 indexed leaseNo, address indexed buyer, address indexed provider, uint40 end, uint256 locked
    );

    /// @notice The account's order, or signed call, with this number is void. If `andOlder`, so are all with lower numbers.
    event Cancelled(address indexed account, Numbered indexed kind, uint64 salt, bool andOlder);

    /// @notice A call that the account signed was sent by `relayer`, for a fee in atoms from the account's balance.
    event Relayed(address indexed account, address indexed relayer, uint64 salt, uint256 fee);

    event PurseCreated(
        address indexed purse, address indexed owner, address indexed operator, uint64 salt, uint40 expiry
    );
    event PurseExpiryMoved(address indexed purse, uint40 expiry);
    /// @notice Atoms moved from the owner's balance to the purse's.
    event PurseFunded(address indexed purse, address indexed owner, uint256 amount);
    /// @notice Atoms moved from the purse's balance to the owner's.
    event PurseSwept(address indexed purse, address indexed owner, uint256 amount);

    event FeesCollected(address indexed provider, address indexed recipient, uint256 amount);

    /* ERRORS: the expected value comes first */

    // Deployment
    error TokenWithoutCode(address token);
    error DecimalsTooMany(uint256 most, uint256 decimals);
    error FeeTooHigh(uint256 most, uint256 feeBps);
    error FeeRecipientMissing(uint256 feeBps);
    error WindowOutOfBounds(uint256 least, uint256 most, uint256 windowSeconds);
    error TermsDiffer(address extension);

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
    error FlagNotAccepted(uint256 askFlags, uint256 bidFlags);
    error SizeTooLarge(uint256 most, uint256 size);
    error UnitMismatch(bytes32 ask, bytes32 bid);
    error DurationTooLong(uint256 most, uint256 duration);
    error DurationTooShort(uint256 least, uint256 duration);
    error StartTooLong(uint256 most, uint256 startLimit);
    error NoticeTooShort(uint256 least, uint256 notice);
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
    error NotMarkedAgain(bytes16 leaseNo);
    error SeatsClosed(uint256 deadline, uint256 time);
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

    // Signed calls
    error SignatureExpired(uint256 deadline, uint256 time);
    error CallUsed(address account, uint256 salt);
    error NotRelayer(address relayer, address sender);
    error RelayFeeTooHigh(uint256 most, uint256 fee);
    error SaltTooLarge(uint256 most, uint256 salt);

    // Purses
    error PurseExists(address purse);
    error UnknownPurse(address purse);
    error PurseExpired(uint256 expiry, uint256 time);
    error NotPurseOwner(address owner, address sender);
    error ExpiryNotEarlier(uint256 expiry, uint256 given);

    // The extension
    error NotTheEscrow(address here);
}

/// @title IEscrowCore
/// @notice The functions in the escrow's own code: those called often.
/// @dev A lease is named by (witness, buyer, provider, leaseNo); `leaseNo` is the first half of
/// keccak256(abi.encode(termsHash, meter)), `termsHash` keccak256(abi.encode(bidHash, askHash, pricesHash, seat)).
/// Amounts are atoms of the token. Payments round down, locks up.
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
    /// still works as long as the allowance suffices. Nobody can deposit for another by permit: a relayer would fall back on
    /// an allowance that was not meant for it.
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Moves `amount` of the sender's free balance to `to`. No state of any lease stops this.
    function withdraw(address to, uint256 amount) external;

    /* LEASES */

    /// @notice Opens a lease from an ask and a bid that fit: reserves capacity and locks the most that it may cost.
    /// @dev Orders are live up to and including `expiry`. Paid time is the bid's time, or less if the budget ends sooner;
    /// the ask's start limit comes on top, neither locked nor paid. The first leases of all seats of a bid open within
    /// `SEATING_SECONDS` of its first; a seat's later ones follow a lease that was marked `again`. Signatures are the
    /// account's key's, else the contract's (ERC-1271), which is asked only now, never again.
    /// @return leaseNo Number of the lease.
    function open(Match calldata order) external returns (bytes16 leaseNo);

    /// @notice As `open` for each of at most `MAX_LEASES` items, all or none. For bids of several nodes.
    function openAll(Match[] calldata orders) external;

    /// @notice As `open` for each of at most `MAX_LEASES` items. An item that fails for any reason is skipped.
    /// @dev Warning: an item that runs out of gas is skipped too, so the least gas that does not revert, which nodes
    /// estimate, does not open all items. Send 300,000 gas for each.
    /// @return skipped Bit i (of byte i / 8, lowest first) is set if item i was skipped.
    function openBatch(Match[] calldata orders) external returns (bytes memory skipped);

    /// @notice Pays providers for witnessed time. Anyone may call.
    /// @dev `entries`: runs of provider 20 | count 2 | count × (buyer 20 | leaseNo 16 | ms 5 | r 32 | vs 32), at most
    /// `MAX_ENTRIES` in all; each signature is the witness's on `Usage`, compact (ERC-2098). An entry is skipped if it
    /// raises nothing, is ahead of the time since start, is too late, or is not signed by the witness of an open lease.
    /// Time beyond what the bid pays for is not paid.
    /// @return skipped Bit i (of byte i / 8, lowest first) is set if entry i was skipped.
    function settle(bytes calldata entries) external returns (bytes memory skipped);

    /// @notice Stops an active lease: it ends now, unless its end has passed. For buyer, provider and witness.
    /// The lock of time that can no longer be used goes back to the buyer's balance, and the node is free.
    /// @param again Marks the lease, so that the bid's seat may open once more. Not for the provider. A lease that is
    /// stopped or closed already is only marked.
    function stop(LeaseKey calldata key, bool again) external;

    /// @notice As `stop`, by a `Stop` that buyer, witness or meter signed. Anyone may call, up to and including `deadline`.
    /// @param termsHash Proves who the meter is, which cannot mark; ignored if another signed.
    /// @param signature 65 bytes of a key, or whatever the buyer's contract accepts (ERC-1271).
    function stopBySignature(
        LeaseKey calldata key,
        bool again,
        uint40 deadline,
        bytes32 termsHash,
        bytes calldata signature
    ) external;

    /// @notice Stops active leases whose end has passed, which frees their nodes. Anyone may call. At most `MAX_LEASES`.
    /// @return skipped Bit i (of byte i / 8, lowest first) is set if lease i was not active or has time left.
    function free(LeaseKey[] calldata keys) external returns (bytes memory skipped);

    /// @notice Closes a lease at final usage that meter and witness both signed: pays it, returns the rest to the buyer
    /// and frees the node if the lease was active.
    /// @dev No figure may be below what was settled, and time may not be ahead of the time since start. Nothing is paid
    /// beyond paid time or a cap.
    function close(CloseData calldata data, bytes32 meterR, bytes32 meterVs, bytes32 witnessR, bytes32 witnessVs)
        external;

    /// @notice Closes a lease after its end and the settle window: the rest goes back to the buyer. Anyone may call.
    function refund(LeaseKey calldata key) external;

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

    /// @notice Moves `amount` from the sender, who has approved it, to the account's balance in the escrow.
    function depositFor(address account, uint256 amount) external;

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

    /// @notice As `withdraw` by a `Withdraw` that the account signed. `amount` leaves its balance: the relay's fee goes to
    /// the sender's balance, the rest to `to`.
    function withdrawBySignature(
        address account,
        address to,
        uint256 amount,
        Relay calldata relay,
        bytes calldata signature
    ) external;

    /// @notice Moves the fees on these providers' income to the fee recipient's balance. Anyone may call.
    function collectFees(address[] calldata providers) external;

    /// @notice As `settle`, for leases with counted resources.
    /// @dev An entry is buyer 20 | leaseNo 16 | ms 5 | egressMib 4 | units 4 | r 32 | vs 32, on `MeteredUsage`, at most
    /// `MAX_METERED`. Each figure counts only if it is the highest so far; beyond its cap nothing is paid.
    function settleMetered(bytes calldata entries) external returns (bytes memory skipped);

    /// @notice Calls the escrow once for each item, for the same sender, all or none.
    function multicall(bytes[] calldata calls) external;

    /* PURSES */

    /// @notice Makes a purse of the sender and puts `amount` of the sender's balance into it.
    /// @dev The purse is the last 20 bytes of keccak256(abi.encode(domainSeparator, owner, operator, salt)): no key signs
    /// for it. Bids name it as their buyer and are signed by the operator's key or contract (ERC-1271).
    function createPurse(address operator, uint64 salt, uint40 expiry, uint256 amount)
        external
        returns (address account);

    /// @notice Moves `amount` of the owner's balance to the purse. For the owner.
    function fundPurse(address account, uint256 amount) external;

    /// @notice Moves `amount` of what is free in the purse to the owner's balance. For the owner, at any time.
    function sweepPurse(address account, uint256 amount) external;

    /// @notice Brings the purse's expiry forward: from then on nothing opens and no lease is extended. For the owner.
    function expirePurse(address account, uint40 expiry) external;

    /* ORDERS */

    /// @notice Cancels the account's order with this number, bid or ask: no lease opens from it again; or the call that it
    /// signed with this number. With `andOlder`, also everything of that kind with a lower number. Open leases continue.
    /// @param signature The account's signature of `Cancel`, ERC-1271 included; ignored if the account itself calls. For a
    /// purse, its owner or operator signs or calls.
    function cancel(address account, Numbered kind, uint64 salt, bool andOlder, bytes calldata signature) external;

    /// @notice Extends an active lease by `seconds_` of paid time. For the buyer, or operator and owner of a purse
    /// before its expiry; before the end, up to the ask's longest time, and within what is left of the bid's budget.
    /// @dev Ask, bid, pricesHash and seat are those that the lease was opened from.
    function topUp(Ask calldata ask, Bid calldata bid, bytes32 pricesHash, uint16 seat, uint32 seconds_) external;

    /// @notice As `topUp` by a `TopUp` that the buyer signed. The relay's fee goes from the buyer's balance, on top, to the
    /// sender's. A purse pays a fee only if its owner signed.
    function topUpBySignature(
        Ask calldata ask,
        Bid calldata bid,
        bytes32 pricesHash,
        uint16 seat,
        uint32 seconds_,
        Relay calldata relay,
        bytes calldata signature
    ) external;

    /* VIEWS */

    /// @return Fees on the provider's income that are not yet collected.
    function feesOf(address provider) external view returns (uint256);

    /// @return Thousandths of GPUs that open leases occupy on the node.
    function capacityUsed(address provider, uint24 node) external view returns (uint256);

    function lease(LeaseKey calldata key) external view returns (Lease memory);

    function counted(LeaseKey calldata key) external view returns (Counted memory);

    /// @return All zero where there is no such purse.
    function purse(address account) external view returns (Purse memory);

    /// @return The purse that `createPurse` makes, or made.
    function purseOf(address owner, address operator, uint64 salt) external view returns (address);

    /// @return used Whether a bid of the account with this salt has opened a lease, or the call with it was sent.
    /// @return cancelled Whether the account cancelled this salt, alone or with all older ones.
    function saltState(address account, Numbered kind, uint64 salt) external view returns (bool used, bool cancelled);

    /// @return Lowest salt that the account may still use.
    function saltsFrom(address account, Numbered kind) external view returns (uint64);

    /// @return Everything that is fixed in the extension; equal to the escrow's.
    function terms() external view returns (Terms memory);

    /// @return latest The seat's latest lease, if the seat had more than one lease or the bid has several nodes; else zero.
    /// @return spentBefore Atoms that the seat's earlier leases may have paid.
    function bidRecord(bytes32 bidHash, uint16 seat) external view returns (bytes16 latest, uint128 spentBefore);

    function hashAsk(Ask calldata ask) external pure returns (bytes32);
    function hashBid(Bid calldata bid) external pure returns (bytes32);
    function hashQuote(Quote calldata quote) external pure returns (bytes32);
    function hashPrices(Prices calldata prices) external pure returns (bytes32);
    function leaseNoOf(bytes32 bidHash, bytes32 askHash, bytes32 pricesHash, uint16 seat, address meter)
        external
        pure
        returns (bytes16);

    /// @param rate 1e-12 token per hour.
    /// @return Atoms, rounded down.
    function cost(uint64 rate, uint64 ms) external view returns (uint256);
}

/// @title IComputeEscrow
/// @notice Holds buyers' tokens and releases them to providers for usage that the buyer's witness signed: everything that
/// can be called at the escrow's address.
interface IComputeEscrow is IEscrowCore, IEscrowExtension {}
